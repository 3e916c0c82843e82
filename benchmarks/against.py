"""Today's code beside an earlier commit's, alternately in one window:
`python -m benchmarks.against COMMIT --probes rung,start,proposal`.

The commit is checked out beside this tree; both are run by this interpreter, so that only our code differs.
A probe (benchmarks/probes/NAME.py) prints one line of JSON; each round runs it in both trees, in an order
that changes from round to round, because machines are shared and get warm. Reported per figure: the medians
and the median of the paired ratios, with their range, written after each round; probes of earlier calls are
kept. The working copy is measured as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import RESULTS, save

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--probes", default="rung,start,proposal")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of the probes")
    parser.add_argument("--no-warm-up", action="store_true", help="of probes that keep nothing in a cache")
    parser.add_argument("--caches", type=Path, help="a folder that keeps the caches; else a new one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before"
        git("worktree", "add", "--detach", "--quiet", str(before), args.commit)
        trees = {"before": before, "now": ROOT}
        try:
            rounds = range(0 if args.no_warm_up else -1, args.repeats)
            for name in args.probes.split(","):
                for figures in compared(name, trees, rounds, args.threads, args.caches or Path(scratch)):
                    keep(args.commit, args.threads, {name: figures})
        finally:
            git("worktree", "remove", "--force", str(before))


def keep(commit: str, threads: int, figures: dict[str, dict]) -> None:
    """Write figures of probes beside those of earlier calls."""
    name = "against_" + git("rev-parse", "--short", commit)
    path = RESULTS / f"{name}.json"
    earlier = json.loads(path.read_text())["probes"] if path.exists() else {}
    save(name, {"threads": threads, "probes": earlier | figures})


def compared(name: str, trees: dict[str, Path], rounds: range, threads: int, caches: Path) -> Iterator[dict]:
    """After each round, by figure of a probe: both medians, the paired ratios now / before. A first round,
    -1, that fills each tree's cache is not counted."""
    found: dict[str, list[dict[str, float]]] = {tree: [] for tree in trees}
    for repeat in rounds:
        for tree in sorted(trees, reverse=repeat % 2 == 0):
            line = probe(name, trees[tree], caches / f"cache-{tree}", threads, repeat)
            print(name, tree, "warm-up" if repeat < 0 else repeat, json.dumps(line), flush=True)
            if repeat >= 0:
                found[tree].append(line)
        if repeat >= 0:
            columns = {figure: [[line[figure] for line in found[tree]] for tree in ("before", "now")]
                       for figure in found["now"][0]}
            yield {"repeats": repeat + 1, **{figure: row(*both) for figure, both in columns.items()}}


def probe(name: str, tree: Path, cache: Path, threads: int, number: int) -> dict[str, float]:
    """What a probe prints when it runs on a tree, in a round of that number."""
    cache.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads),
                   "ROUND": str(max(number, 0))}
    done = subprocess.run([sys.executable, str(Path(__file__).parent / "probes" / f"{name}.py"), str(cache)],
                          cwd=tree, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(before: list[float], now: list[float]) -> dict:
    """Medians, and the paired ratios' median and range."""
    ratios = sorted(new / old for old, new in zip(before, now, strict=True) if old)
    compared = {"ratio": statistics.median(ratios), "ratio_range": [ratios[0], ratios[-1]]} if ratios else {}
    return {"before": statistics.median(before), "now": statistics.median(now), **compared}


def git(*arguments: str) -> str:
    """A git command's output in this repository."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
