"""CPU seconds of a proposal, median and worst, of the default method over one simulated search of
benchmarks/replay's recorded table, and its hypervolume.

Runs on the checkout it is started in: `python benchmarks/probes/proposal.py CACHE` (the cache is not used).
"""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import torch

from benchmarks import replay


def main() -> None:
    torch.set_num_threads(1)
    seconds, ask = [], replay.StudySearcher.ask

    def timed(self, *arguments, **settings):
        began = time.process_time()
        found = ask(self, *arguments, **settings)
        seconds.append(time.process_time() - began)
        return found

    replay.StudySearcher.ask = timed
    problem = replay.PROBLEMS["table"]()  # recorded trials: needs no other package
    line = replay.run(problem, "ehvi+halving-front", 0, 8)
    print(json.dumps({"proposals": len(seconds), "median_cpu_s": statistics.median(seconds),
                      "worst_cpu_s": max(seconds), "all_cpu_s": sum(seconds),
                      "hypervolume": line["curve"][-1][1]}))


if __name__ == "__main__":
    main()
