"""A new user's first search: `qdlm run quickstart` in an empty folder, all that trials share made on the way.

Runs on the checkout it is started in, of any age since 2026-11-21:
`python benchmarks/probes/first_run.py CACHE` (the cache is not used). The seed of the search is the round
that `benchmarks.against` counts. The share of the box is that of the front as the search measured it, in one
box for all ages: today's of spaces/quickstart.yaml, latency and size in shares of the run's own base, by
200,000 points drawn evenly.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ENDED = ("complete", "stopped", "failed")
BEST, WORST = np.array([4, -1.0, 0.05, 0.15]), np.array([40, -0.5, 1.5, 1.1])
"""Of perplexity, controllability (less is better), and latency and size over the base's."""
DRAWN = 200_000


def share_of_box(rows: list[dict]) -> float:
    """Of complete trials; the first is the base as it is."""
    base = next(row for row in rows if row["trial"] == 0)
    front = np.array([[row["perplexity"], -row["controllability"], row["latency_ms"] / base["latency_ms"],
                       row["size_bytes"] / base["size_bytes"]] for row in rows if row["perplexity"] <= 40])
    points = np.random.default_rng(0).uniform(BEST, WORST, (DRAWN, len(BEST)))
    beaten = np.zeros(DRAWN, dtype=bool)
    for member in front:
        beaten |= (points >= member).all(axis=1)
    return float(beaten.mean())


def main() -> None:
    seed = os.environ.get("ROUND", "0")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as storage:
        subprocess.run([sys.executable, "-m", "search", "run", "quickstart", "--storage", storage, "--seed",
                        seed], stdout=subprocess.DEVNULL, check=True, env=environment)
        run, = Path(storage).glob("quickstart-*")
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    asked = [event["time"] for event in events if event["event"] == "ask"]
    ends: dict[int, dict] = {}
    for event in events:
        if event["event"] == "row" and event["state"] in ENDED:
            ends.setdefault(event["trial"], event)  # a member of the front has a second, of `finish`
    first, last = min(asked), max(event["time"] for event in ends.values())
    complete = [event for event in ends.values() if event["state"] == "complete"]
    print(json.dumps({"whole_s": events[-1]["time"] - events[0]["time"],
                      "prepared_s": first - events[0]["time"], "trials_s": last - first,
                      "finish_s": events[-1]["time"] - last,
                      "trials_a_minute": 60 * len(asked) / (last - first),
                      "complete": len(complete), "share_of_box": share_of_box(complete)}))


if __name__ == "__main__":
    main()
