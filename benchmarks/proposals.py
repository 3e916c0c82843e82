"""What a proposal costs when many results are told: `python -m benchmarks.proposals [--cases 300x15,2000x15]
[--before COMMIT]`.

A case is results x dimensions. `benchmarks/probes/proposals.py` tells them to the default searcher and times
its proposals, one thread, one process a case, in this tree and in the checked-out COMMIT, if one is given.
Cases of earlier calls stay in results/proposals.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import RESULTS, save
from benchmarks.records import checked_out

PROBE = Path(__file__).parent / "probes" / "proposals.py"
CASES = "100x15,200x15,300x15,1000x15,2000x15,300x40,2000x40"


def main() -> None:
    """Write results/proposals.json."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--proposals", type=int, default=25)
    parser.add_argument("--before", metavar="COMMIT")
    args = parser.parse_args()
    path = RESULTS / "proposals.json"
    cases = json.loads(path.read_text())["cases"] if path.exists() else {}
    with tempfile.TemporaryDirectory() as scratch, checked_out(args.before, Path(scratch)) as trees:
        for case in args.cases.split(","):
            results, d = case.split("x")
            for tree, folder in trees.items():
                name = tree if tree == "now" else args.before
                cases.setdefault(case, {})[name] = found = probed(folder, results, str(args.proposals), d)
                print(case, name, found, flush=True)
            save("proposals", {"proposals": args.proposals, "threads": 1, "cases": cases})


def probed(tree: Path, *arguments: str) -> dict[str, float]:
    """What the probe prints of the code in `tree`."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(PROBE), "-", *arguments], cwd=tree, env=environment, text=True,
                          stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
