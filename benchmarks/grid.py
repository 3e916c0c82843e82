"""Walk a grid space one trial after another, without Ray:
`python -m benchmarks.grid granularity --cache DIR --rows FILE`.

Every trial is what `qdlm run` would train: the same points, rungs and measurements, here one process that can
be stopped and goes on where it was. `--minutes` ends it in time; `--rows` keeps a JSON line for each rung of
each trial. `--cache` is the folder `cache` of a run of the space (corpus, teacher and base are taken from
there, or made). When the grid is whole, or with `--report`, the table of `qdlm table --layout quantizers`
goes to results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.arms import prepared
from benchmarks.common import save
from search.reporting import integer_fraction, quantizers
from search.run.validation import load_checked
from spaces.overrides import parse
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

KEPT = ("nll_bound", "nll_bound minus none", "perplexity", "controllability", "train_loss", "bits_per_weight",
        "size_bytes", "latency_ms_ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--rows", required=True, type=Path,
                        help="JSON lines; trials that it holds are not run again")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no trial after so long")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true",
                        help="write the JSON of what is there, train nothing")
    parser.add_argument("--name", help="of the JSON; that of the space unless given")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    space = load_checked(args.space, parse(args.settings))
    if not args.report:
        walk(space, args)
    rows = list(kept(args.rows))
    done = len({point_of(row) for row in rows if row["state"] == "complete"})
    print(f"{done} of {space.size()} trials")
    if args.report or done == space.size():
        save(args.name or space.name,
             {"space": args.space, "trials": done, "of": space.size(), **summary(rows)})


def walk(space, args: argparse.Namespace) -> None:
    """Run the trials of the grid that are not in `args.rows`, in order, until the time is over."""
    ends, context = time.monotonic() + 60 * args.minutes, WorkerContext()
    text = args.rows.read_text(encoding="utf-8") if args.rows.exists() else ""
    if text[-1:] not in ("", "\n"):
        args.rows.write_text(text + "\n", encoding="utf-8")  # ends the line that a killed process left
    known = {point_of(row) for row in kept(args.rows) if row["state"] == "complete"}
    shared = None
    for number, point in enumerate(space.enumerate()):
        values = {f"config.{path}": value for path, value in point.items()}
        if point_of(values) in known:
            continue
        if time.monotonic() > ends:
            return
        config = space.config(point)
        shared = shared or prepared(config, args.cache, context)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch, args.rows.open("a", encoding="utf-8") as file:
            payload = {"config": config.model_dump(mode="json"), "prepared": shared, "rungs": space.rungs,
                       "folder": scratch}
            found = [event for event in JOBS["trial"](payload, context) if "rung" in event]
            for event in found:
                state = "complete" if event.pop("final") else "rung"
                event.pop("artifact", None)
                file.write(json.dumps({"trial": number, "state": state, **values, **event}) + "\n")
        point_text = " ".join(quantizers.short(value) for value in point.values())
        print(f"{number} {point_text} nll_bound {found[-1]['nll_bound']:.4f}, "
              f"{time.monotonic() - begun:.1f} s", flush=True)


def point_of(row: dict) -> str:
    """The searched values of a row."""
    return json.dumps({name: value for name, value in row.items() if name.startswith("config.")},
                      sort_keys=True)


def kept(file: Path) -> Iterator[dict]:
    """The rows of complete lines; a line that a killed process left half-written is skipped."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def summary(rows: list[dict]) -> dict:
    """Every arm with mean and half-width of its 95 % interval, its curve, and the plain answer."""
    found = quantizers.arms(rows)
    lines = quantizers.table(found, lambda metric, mean, half: [round(mean, 5), round(half, 5)])
    curves = {f"{arm.name} {arm.rest}".strip(): [[steps,
                                                  *quantizers.interval([row["nll_bound"] for row in at])]
                                                 for steps, at in sorted(arm.curve.items())] for arm in found}
    maps = [{"family": one.family, "rest": one.rest, "rms": None if math.isnan(one.rms) else one.rms,
             "costs": [[*split, one.mean(split), len(one.costs[split])] for split in sorted(one.costs)]}
            for one in integer_fraction.splits(found)]
    return {"seeds": max(line["seeds"] for line in lines), "maps": maps, "arms": [
        {key: line[key] for key in ("quantizer", "rest", "seeds", *KEPT) if line.get(key) is not None}
        for line in lines], "curves": curves, "answer": integer_fraction.answer(found)}


if __name__ == "__main__":
    main()
