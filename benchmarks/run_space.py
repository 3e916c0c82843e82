"""A whole run from a user's command, timed: `python -m benchmarks.run_space quickstart [--set key=value ...]`.

Prints and writes what was reached: seconds by stage, trials by state, front, the unquantized arm's perplexity against
real text's, warm trial start. The corpus, teacher and base are made anew (an empty storage), as for a new user.
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
from search.records import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", help="keep the run here; by default a folder that is removed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        storage = Path(asked.storage or scratch)
        events, seconds = timed_run(asked.space, asked.settings, asked.seed, storage)
        run = next(event["run"] for event in events if event["event"] == "run_started")
        figures = summary(events, RunFolder.open(Path(run)).rows(), seconds)
    print(json.dumps(figures, indent=1))
    save(f"run_{Path(asked.space).stem}", figures)


def timed_run(space: str, settings: list[str], seed: int, storage: Path) -> tuple[list[dict], float]:
    """Run `qdlm run` as a process of its own; its events, each with the seconds at which it came, and the whole time."""
    command = [sys.executable, "-m", "search", "run", space, "--json", "--seed", str(seed), "--storage", str(storage)]
    for setting in settings:
        command += ["--set", setting]
    began, events = time.monotonic(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            events.append({**json.loads(line), "at": time.monotonic() - began})
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    return events, time.monotonic() - began


def summary(events: list[dict], rows: list[dict], seconds: float) -> dict:
    """The figures of one run."""
    first = next(event["at"] for event in events if event["event"] == "trial_started")
    last = max(event["at"] for event in events if event["event"] == "trial_finished")
    ended = [row for row in rows if row["state"] in ("complete", "stopped", "failed")]
    plain = next(row for row in ended if row.get("tag") == "unquantized" and row["state"] == "complete")
    starts = list({row["trial"]: row["start_seconds"] for row in rows if row.get("start_seconds")}.values())
    final = next(event for event in reversed(events) if event["event"] == "run_finished")
    return {
        "seconds": {"all": seconds, "until_first_trial": first, "trials": last - first, "after_trials": seconds - last},
        "trials": {state: sum(row["state"] == state for row in ended) for state in ("complete", "stopped", "failed")},
        "front_size": final["front_size"], "hypervolume": final.get("hypervolume"), "best": final.get("best"),
        "unquantized": {name: plain[name] for name in ("perplexity", "perplexity_se", "perplexity_heldout", "diversity",
                                                       "diversity_heldout", "controllability", "latency_ms", "size_bytes")},
        "unquantized_ratio_to_real_text": plain["perplexity"] / plain["perplexity_heldout"],
        "trial_start_seconds": spread(starts),
    }


if __name__ == "__main__":
    main()
