"""Who leads from the first dozen of trials: `python -m benchmarks.replay_early --work DIR [--at 12,24,40]`.

The runs of `benchmarks.replay`, on its problems, the two of `benchmarks.replay_mixed` and the table with
latencies as they are told today (`benchmarks.replay_problems.TableByRatio`), and the hypervolume that each
method's front has after so much device-time (in full trials): as a share of the best front there is, and
`AGAINST`'s over every other method's, inter-quartile means over seeds with 95 % bootstrap intervals.
`ehvi+halving-front-before` is the default as it was: first trials drawn at random, and halving alone.
`--before COMMIT` has the default of that commit run as well, in a checkout of it (not on the mixed problems,
which it may not have). Done runs stand in WORK/early.jsonl, and those of `benchmarks.replay` in the same
folder count, too, so the command can be stopped (--minutes) and given again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save
from benchmarks.records import checked_out
from benchmarks.replay import AGAINST, METHODS, at, interval, run, shown
from benchmarks.replay_mixed import MIXED
from benchmarks.replay_problems import PROBLEMS, TableByRatio
from search.records.journal import append_line, mend_tail, read_lines

ALL = {**PROBLEMS, **MIXED, TableByRatio.name: TableByRatio}
USUAL = ("random", "tpe+halving-front", "ehvi+halving-front-before", AGAINST)
PROBE = Path(__file__).parent / "probes" / "replayed.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--at", default="12,24,40")
    parser.add_argument("--problems", default=",".join(ALL))
    parser.add_argument("--methods", default=",".join(USUAL))
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=4.5)
    parser.add_argument("--name", default="replay_early", help="of the file in benchmarks/results")
    args = parser.parse_args()
    moments, names, methods = ([float(one) for one in args.at.split(",")], args.problems.split(","),
                               args.methods.split(","))
    for given, legal in ((names, ALL), (methods, METHODS)):
        if unknown := set(given) - set(legal):
            parser.error(f"unknown {', '.join(sorted(unknown))}; legal: {', '.join(legal)}")
    warnings.simplefilter("ignore")
    args.work.mkdir(parents=True, exist_ok=True)
    journal, begun, until = args.work / "early.jsonl", time.monotonic(), moments[-1]
    done = lines(args.work, until)
    problems = {name: ALL[name]() for name in names}
    old = f"{AGAINST}@{args.before}"
    wanted = [*methods, *([old] if args.before else [])]
    with tempfile.TemporaryDirectory() as scratch, checked_out(args.before, Path(scratch)) as trees:
        for seed, method, name in itertools.product(range(args.seeds), wanted, problems):
            if ((name, method, seed) in done or (method == old and name in MIXED)
                    or time.monotonic() - begun > 60 * args.minutes):
                continue
            found = (probed(trees["before"], name, seed, args.workers, until) if method == old
                     else run(problems[name], method, seed, args.workers, until))
            line = {"problem": name, "method": method, "seed": seed, "until": until, **found}
            append_line(journal, line)
            done[name, method, seed] = line
    figures = {}
    for name, problem in problems.items():
        curves = {method: [done[name, method, seed]["curve"] for seed in range(args.seeds)
                           if (name, method, seed) in done] for method in wanted}
        figures[name] = row(problem.best(), curves, moments)
    for name, rows in figures.items():
        print(f"\n{name}: hypervolume / best after {args.at} full trials; {AGAINST} over the method")
        for method, found in rows.items():
            volumes, ratios = ("  ".join(map(shown, found.get(key, ()))) for key in ("hypervolume", "ratio"))
            print(f"{method:26s} {found['seeds']:3d} {volumes}   |  {ratios}")
    save(args.name, {"at": moments, "workers": args.workers, "problems": figures})


def lines(work: Path, until: float) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Runs that were done for so long, by problem, method and seed."""
    found = {}
    for name in ("replay.jsonl", "early.jsonl"):
        journal = work / name
        journal.touch()
        mend_tail(journal)
        found |= {(line["problem"], line["method"], line["seed"]): line for line in read_lines(journal)
                  if line.get("until", 40.0) >= until}  # `replay.AT`
    return found


def probed(tree: Path, *arguments: object) -> dict[str, Any]:
    """The default's run in another tree: problem, seed, workers, until."""
    problem, *rest = map(str, arguments)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(PROBE), "-", problem, AGAINST, *rest], cwd=tree, text=True,
                          env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(best: float, curves: dict[str, list], moments: list[float]) -> dict[str, dict[str, Any]]:
    """By method: seeds, and for each moment the share of the best hypervolume and, but for `AGAINST` itself,
    `AGAINST`'s over the method's."""
    volumes = {method: np.array([[at(curve, moment) for moment in moments] for curve in found]).T / best
               for method, found in curves.items() if found}
    return {method: {"seeds": rows.shape[1], "hypervolume": [interval(row) for row in rows],
                     "mean": rows.mean(axis=1).tolist(),
                     **({"ratio": [interval(one, other) for one, other in zip(volumes[AGAINST], rows,
                                                                              strict=True)],
                         "ratio_of_means": (volumes[AGAINST].mean(axis=1) / rows.mean(axis=1)).tolist()}
                        if method != AGAINST and AGAINST in volumes else {})}
            for method, rows in volumes.items()}


if __name__ == "__main__":
    main()
