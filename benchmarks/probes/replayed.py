"""The front of one pretended search of benchmarks/replay over time, as `benchmarks.replay.run` tells it.

Runs on the checkout it is started in, of any age since 2026-11-21:
`python benchmarks/probes/replayed.py CACHE PROBLEM METHOD SEED WORKERS UNTIL` (the cache is not used).
"""

import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import torch

from benchmarks import replay


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    problem, method, seed, workers, until = sys.argv[2:]
    replay.AT, replay.SHARE = float(until), 0.0  # goes on until then, whatever it reaches
    print(json.dumps(replay.run(replay.PROBLEMS[problem](), method, int(seed), int(workers))))


if __name__ == "__main__":
    main()
