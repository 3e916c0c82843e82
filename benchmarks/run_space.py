"""A whole run from a user's command, timed:
`python -m benchmarks.run_space quickstart [--set key=value ...]`.

Prints and writes what was reached: seconds by stage, trials by state, front, the unquantized arm's perplexity
against real text's, warm trial start. The corpus, teacher and base are made anew (an empty storage),
as for a new user.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import save, spread
from search.records.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", help="keep the run here; by default a folder that is removed")
    parser.add_argument("--summarize", metavar="RUN",
                        help="only write down what an earlier run of the space gave")
    parser.add_argument("--name", help="of the JSON; run_SPACE unless given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run, seconds = Path(args.summarize or "."), None
        if not args.summarize:
            run, seconds = timed_run(args.space, args.settings, args.seed, Path(args.storage or scratch))
        figures = summary(RunFolder.open(run), seconds)
    print(json.dumps(figures, indent=1))
    save(args.name or f"run_{Path(args.space).stem}", figures)


def timed_run(space: str, settings: list[str], seed: int, storage: Path) -> tuple[Path, float]:
    """Run `qdlm run` as a process of its own; the run's folder and the seconds from start to exit."""
    command = [sys.executable, "-m", "search", "run",
               space, "--json", "--seed", str(seed), "--storage", str(storage)]
    for setting in settings:
        command += ["--set", setting]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return (Path(next(event["run"] for event in events if event["event"] == "run_started")),
            time.monotonic() - began)


def summary(folder: RunFolder, seconds: float | None) -> dict:
    """The figures of one run, from its folder."""
    events = list(folder.events())
    began = next(event["time"] for event in events if event["event"] == "run_started")
    ended = next(event for event in reversed(events) if event["event"] == "run_ended")
    rows = folder.rows()
    latest = {row["trial"]: row for row in rows if row["state"] in ("complete", "stopped", "failed")}
    closed = list(latest.values())  # a member of the front has a second row, with what was measured again
    last = max(row["time"] for row in rows if "again" not in row)
    first = min(row["time"] for row in rows)
    prepared = max(event["time"] for event in events if event["event"] == "prepare" and event["time"] < first)
    plain = next(row for row in closed if row.get("tag") == "unquantized" and row["state"] == "complete")
    finished = [row for row in closed if row["state"] == "complete"]
    best = min(finished, key=lambda row: row["perplexity"])
    starts = list({row["trial"]: row["start_seconds"] for row in rows if row.get("start_seconds")}.values())
    names = ("perplexity",
             "perplexity_se", "perplexity_heldout", "nll_bound", "diversity", "diversity_heldout",
             "controllability", "latency_ms", "latency_ms_ratio", "size_bytes", "trainable_params_share")
    return {
        "seconds": {"command": seconds, "run": ended["time"] - began, "until_prepared": prepared - began,
                    "trials": last - prepared, "finish": ended["time"] - last},
        # above 1: times hold the pauses between
        "sessions": sum(event["event"] == "run_started" for event in events),
        "trials": {state: sum(row["state"] == state for row in closed)
                   for state in ("complete", "stopped", "failed")},
        "front_size": ended["front_size"], "hypervolume": ended.get("hypervolume"), "best": ended.get("best"),
        "unquantized": {name: plain.get(name) for name in names},
        "best_perplexity_trial": {name: best.get(name) for name in (*names, "config.quantization.quantizer")},
        "perplexity_over_real_text": {"unquantized": plain["perplexity"] / plain["perplexity_heldout"],
                                      "best": best["perplexity"] / best["perplexity_heldout"]},
        "trial_start_seconds": spread(starts),
    }


if __name__ == "__main__":
    main()
