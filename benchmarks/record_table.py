"""Record what trials of the real trainable measure, for replay:
`python -m benchmarks.record_table --cache DIR --work DIR`.

Every point of benchmarks/tables/quickstart.yaml at every rung, for several trial seeds (which also draw
the sampling noise). Points that differ in sampling alone share one training run; each has its own seconds.
What is done stands in WORK/table.jsonl, a line per row, so that the command can be stopped (--minutes)
and given again; it ends by writing benchmarks/tables/quickstart.parquet with what there is. `--cache` is
the `cache` of a run of the quickstart. No Ray.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch

from benchmarks.arms import prepared
from search.records.journal import append_line, mend_tail, read_lines
from spaces.schema import Space, load
from trainable.stages.prepare import Prepared
from trainable.stages.trial import Trial
from trainable.workers.context import WorkerContext

HERE = Path(__file__).parent / "tables"
SPACE, TABLE = HERE / "quickstart.yaml", HERE / "quickstart.parquet"
SAMPLING = ("sampling.steps", "sampling.temperature")
KEPT = ("perplexity", "perplexity_se", "controllability", "latency_ms",
        "latency_ms_ratio", "size_bytes", "nll_bound", "diversity", "train_seconds", "generation_flops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=4.5,
                        help="stop starting training runs after that long")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space, begun = load(SPACE), time.monotonic()
    args.work.mkdir(parents=True, exist_ok=True)
    journal = args.work / "table.jsonl"
    mend_tail(journal)
    done = {line["group"] for line in read_lines(journal)} if journal.exists() else set()
    context, shared, slowest = WorkerContext(), None, 0.0
    for seed in range(args.seeds):
        for trained, samplings in groups(space):
            name = json.dumps([seed, trained], sort_keys=True)
            if name in done:
                continue
            if time.monotonic() - begun + slowest > 60 * args.minutes:
                break
            since = time.monotonic()
            if shared is None:
                shared = Prepared(**prepared(space.example, args.cache, context))
            rows = list(record(space, trained, samplings, seed, shared, args.work / "trial", context))
            append_line(journal, {"group": name, "rows": rows})
            slowest = max(slowest, time.monotonic() - since)
            print(f"{time.monotonic() - begun:6.1f} s", name, flush=True)
    rows = [row for line in read_lines(journal) for row in line["rows"]]
    names = ("point", "seed", "rung", "steps", "seconds", *KEPT)
    pa.parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), TABLE)
    print(f"{len(rows)} rows, {len({row['point'] for row in rows})} points -> {TABLE.name}")


def groups(space: Space) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The points that share a training run: what is trained, and the points."""
    found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for point in space.enumerate():
        trained = {path: value for path, value in point.items() if path not in SAMPLING}
        found.setdefault(json.dumps(trained, sort_keys=True), (trained, []))[1].append(point)
    yield from found.values()


def record(space: Space, trained: dict[str, Any], points: list[dict[str, Any]], seed: int, shared: Prepared,
           folder: Path, context: WorkerContext) -> Iterator[dict[str, Any]]:
    """Train once, measure at every rung under each point's sampling; `seconds` are since the start
    of that one trial."""
    config = space.config(points[0])
    config = config.model_copy(update={"seed": seed,
                                       "evaluation": config.evaluation.model_copy(update={
                                           "seed": seed, "metrics": ("nll_bound", "diversity")})})
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    trial = Trial(config, shared, space.rungs, folder, context.device, context.cache)
    measuring = dict.fromkeys(range(len(points)), 0.0)
    training = 0.0
    for rung, steps in enumerate(space.rungs):
        since = time.perf_counter()
        trial.run.advance(steps)
        training += time.perf_counter() - since
        for index, point in enumerate(points):
            trial.config = config.model_copy(update={"sampling": space.config(point).sampling})
            since = time.perf_counter()
            with trial.run.averaged():
                values = trial._measure(final=rung == len(space.rungs) - 1)
            measuring[index] += time.perf_counter() - since
            yield {"point": json.dumps(point, sort_keys=True), "seed": seed, "rung": rung, "steps": steps,
                   "seconds": training + measuring[index],
                   **{name: values[name] for name in KEPT if name in values}}


if __name__ == "__main__":
    main()
