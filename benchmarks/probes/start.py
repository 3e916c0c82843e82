"""Seconds from asking for a worker group to a trial's first training step, cold and warm.

Runs on the checkout it is started in: `python benchmarks/probes/start.py CACHE`.
"""

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from benchmarks.trial_start import starts


def main() -> None:
    found = starts(sys.argv[1], 8)
    print(json.dumps({"cluster_s": found["cluster"], "group_s": found["group"],
                      "first_trial_s": found["first_trial"],
                      "warm_median_s": statistics.median(found["warm"])}))


if __name__ == "__main__":
    main()
