"""Search methods against each other under a virtual clock:
`python -m benchmarks.replay --work DIR [--problems a,b]`.

The engine, searchers and schedulers of a real run, W pretended workers, no Ray, no waiting
(`search.run.simulator`). The front that a method holds at a moment is scored by the true values of its
members (noise taken out), as a share of a box fixed before. Prints, per problem, the inter-quartile mean over
seeds of the hypervolume at `AT` full trials' device-time and of the device-time to 95 % of the best front
there is, with 95 % bootstrap intervals; and what share of every method's device-time `AGAINST` takes. A run
goes on until it is there, for `FULL` of its method at most; one that never got there counts with all of that,
so the share of a method that some runs did not reach it with (`reached`) is an upper bound. Time is in full
trials. Done runs stand in WORK/replay.jsonl, so the command can be stopped (--minutes) and given again. The
runs behind the committed figures: `gunzip -c benchmarks/results/replay_runs.jsonl.gz > WORK/replay.jsonl`,
to look into them or to go on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks.common import save
from benchmarks.replay_problems import PROBLEMS, Problem
from search.engine.engine import Engine
from search.pareto.objectives import matrix
from search.records.journal import append_line, mend_tail, read_lines
from search.records.memory import MemoryRecords
from search.run.simulator import VirtualClock, simulate
from search.schedulers.registry import build
from search.study.searcher import StudySearcher
from spaces.points import count

CUT = {"eta": 3, "spare_front": False, "opening": 0}
ALONE = {"opening": 0}
METHODS = {
    "random": ("random", {}, "none", {}),
    "qmc": ("qmc", {}, "none", {}),
    "tpe": ("tpe", {}, "none", {}),
    "grid": ("grid", {"order": "random"}, "none", {}),
    "nsga2": ("nsga2", {}, "none", {}),
    "nsga3": ("nsga3", {}, "none", {}),
    "gp": ("gp", {}, "none", {}),
    "gp-as-optuna": ("gp", {"samples": 128, "candidates": 2048}, "none", {}),
    "cqr": ("cqr", {}, "none", {}),
    "ehvi": ("ehvi", {}, "none", {}),
    "cqr+halving": ("cqr", {}, "halving", CUT),
    "random+halving": ("random", {}, "halving", CUT),
    "tpe+halving": ("tpe", {}, "halving", CUT),
    "tpe+halving-hv": ("tpe", {}, "halving", {**CUT, "ties": "hypervolume"}),
    "tpe+halving-spread": ("tpe", {}, "halving", {**CUT, "ties": "spread"}),
    "tpe+halving-brackets": ("tpe", {}, "halving", {**CUT, "brackets": 2}),
    "tpe+halving-front": ("tpe", {}, "halving", ALONE),
    "tpe+halving-front-opening": ("tpe", {}, "halving", {}),
    "nsga2+halving-front": ("nsga2", {}, "halving", ALONE),
    "tpe-multivariate": ("tpe", {"multivariate": True, "group": True}, "none", {}),
    "tpe+promotion": ("tpe", {}, "promotion", {}),
    "ehvi+halving": ("ehvi", {}, "halving", CUT),
    "ehvi+halving-front": ("ehvi", {}, "halving", {}),
    "ehvi+halving-front-before": ("ehvi", {"first": "random", "startup": 6}, "halving", ALONE),
    "ehvi+halving-front-alone": ("ehvi", {}, "halving", ALONE),
    "ehvi+promotion": ("ehvi", {}, "promotion", {}),
}
AGAINST = "ehvi+halving-front"
"""The default, whose share of the others' times is told."""
USUAL = ("random", "qmc", "grid", "nsga2", "nsga3", "tpe", "tpe+halving-front", "ehvi", AGAINST,
         "ehvi+promotion", "cqr", "gp")
"""The catalogue, and what goes with its schedulers; the other methods run when they are asked for."""
AT = 40.0
FULL = {"random": 600.0, "qmc": 600.0, "grid": 600.0, "nsga2": 600.0, "nsga3": 600.0, "tpe": 300.0,
        "tpe+halving-front": 300.0, "gp-as-optuna": 60.0}
"""Full trials that a run of a method takes at most; `OTHERS` where a method is not named."""
OTHERS = 100.0
SLOW = ("cqr", "cqr+halving", "gp", "gp-as-optuna")
"""Methods that take up to minutes of computing a run: they come last."""
FINITE = ("grid",)
"""Methods that need a finite space."""
SHARE = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--methods", default=",".join(USUAL))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=4.5)
    parser.add_argument("--report", action="store_true", help="only print and write what there is")
    args = parser.parse_args()
    for names, legal in ((args.problems, PROBLEMS), (args.methods, METHODS)):
        if unknown := set(names.split(",")) - set(legal):
            parser.error(f"unknown {', '.join(sorted(unknown))}; legal: {', '.join(legal)}")
    warnings.simplefilter("ignore")
    args.work.mkdir(parents=True, exist_ok=True)
    journal, begun = args.work / "replay.jsonl", time.monotonic()
    journal.touch()
    mend_tail(journal)
    done = {(line["problem"], line["method"], line["seed"]): line for line in read_lines(journal)}
    problems = {name: PROBLEMS[name]() for name in args.problems.split(",")}
    chosen = args.methods.split(",")
    rounds = [(seed, method) for slow in (False, True) for seed in range(args.seeds)
              for method in chosen if (method in SLOW) == slow]
    for (seed, method), name in itertools.product([] if args.report else rounds, problems):
        if method in FINITE and count(problems[name].dimensions) is None:
            continue
        if (name, method, seed) not in done and time.monotonic() - begun < 60 * args.minutes:
            line = {"problem": name, "method": method, "seed": seed,
                    **run(problems[name], method, seed, args.workers)}
            append_line(journal, line)
            done[name, method, seed] = line
    figures = {name: table(problem, [line for line in done.values() if line["problem"] == name])
               for name, problem in problems.items()}
    longest = {**dict.fromkeys(METHODS, OTHERS), **FULL}
    save("replay", {"at": AT, "full_trials": longest, "workers": args.workers, "problems": figures,
                    f"{AGAINST}_as_share_of": shares(problems, list(done.values()))})


class ReachedError(Exception):
    """There is nothing more to see."""


def run(problem: Problem, method: str, seed: int, workers: int, until: float | None = None) -> dict:
    """One search: the curve of (device-time in full trials, true hypervolume) whenever it changed,
    and the counts. It goes on to the goal, or for `until` full trials."""
    sampler, options, scheduler, chosen = METHODS[method]
    full, goal = FULL.get(method, OTHERS), SHARE * problem.best()
    space, clock = problem.search_space(full, workers), VirtualClock()
    study = StudySearcher(space.dimensions, space.objectives, sampler=sampler, sampler_options=options,
                          seed=seed, box=problem.corners, top=problem.rungs[-1], ideals=problem.ideals)
    engine = Engine(space, study, build(scheduler, problem.scheduler_problem(seed), chosen), MemoryRecords(),
                    clock=clock, groups=workers)
    curve, box, truths = [(0.0, 0.0)], problem.box, {}

    def on_step(now: float, engine: Engine) -> None:
        members = engine.members
        spent = now * workers / problem.full
        if (spent > until if until else spent > AT and max(volume for _, volume in curve) >= goal):
            raise ReachedError
        if now > space.budget.time or members == on_step.members:
            return
        on_step.members = members
        for trial in members:
            if trial not in truths:
                row = engine.incumbents.rows[trial]
                truths[trial] = problem.truth({name.removeprefix("config."): value
                                               for name, value in row.items() if name.startswith("config.")})
        volume = box.hypervolume(matrix([truths[trial] for trial in members], problem.objectives))
        curve.append((now * workers / problem.full, volume))

    on_step.members = []
    since = time.process_time()
    with contextlib.suppress(ReachedError):
        simulate(engine, clock, problem.evaluate(seed), workers, on_step)
    return {"curve": curve, "trials": dict(engine.counts), "cpu_seconds": time.process_time() - since}


def at(curve: list, moment: float) -> float:
    """The hypervolume at a moment."""
    return [volume for when, volume in curve if when <= moment][-1]


def reach(curve: list, goal: float) -> float:
    """When the hypervolume first reached the goal; infinite when it never did."""
    return next((when for when, volume in curve if volume >= goal), math.inf)


def iqm(values: np.ndarray) -> np.float64:
    """Inter-quartile mean: of the middle half; infinite where that holds a run that never
    reached the goal."""
    ordered = np.sort(values)
    cut = len(ordered) // 4
    return ordered[cut:len(ordered) - cut].mean()


def interval(values: np.ndarray, other: np.ndarray | None = None, repeats: int = 2000) -> list[float]:
    """Inter-quartile mean and its 95 % bootstrap interval; with `other`, of the ratio of the two
    (independent) means."""
    rng = np.random.default_rng(0)

    def mean(of: np.ndarray, drawn: bool) -> np.float64:
        return iqm(rng.choice(of, len(of)) if drawn else of)

    with np.errstate(all="ignore"):
        found = [mean(values, True) / (mean(other, True) if other is not None else 1.0)
                 for _ in range(repeats)]
        middle = mean(values, False) / (mean(other, False) if other is not None else 1.0)
    ends = np.quantile(np.where(np.isnan(found), np.inf, found), [0.025, 0.975], method="nearest")
    return [float(middle), *map(float, ends)]


def table(problem: Problem, lines: list[dict]) -> dict:
    """Print one problem's table; its figures. Infinite times are None in the figures and `-` in print."""
    runs = {method: [line for line in lines if line["method"] == method] for method in METHODS}
    runs = {method: found for method, found in runs.items() if found}
    best = problem.best()
    goals = {method: np.array([reach(line["curve"], SHARE * best) for line in found])
             for method, found in runs.items()}
    print(f"\n{problem.name}: best front {best:.4f}; hypervolume at {AT:g} full trials; "
          f"goal {SHARE:.0%} of the best front")
    print(f"{'method':22s} {'seeds':>5s} {'hypervolume / best':>22s} {'reached':>8s} {'time to goal':>22s} "
          f"{'trials':>7s} {'s/trial':>8s}")
    figures = {"best": best, "methods": {}}
    for method, found in runs.items():
        volume = interval(np.array([at(line["curve"], AT) for line in found]) / best)
        goal = interval(goals[method])
        trials = float(np.mean([sum(line["trials"].values()) for line in found]))
        cpu = float(np.mean([line["cpu_seconds"] / sum(line["trials"].values()) for line in found]))
        reached = float(np.isfinite(goals[method]).mean())
        print(f"{method:22s} {len(found):5d} {shown(volume):>22s} {reached:8.0%} {shown(goal):>22s} "
              f"{trials:7.0f} {cpu:8.3f}")
        figures["methods"][method] = {
            "seeds": len(found), "hypervolume_share": volume, "reached_goal": reached,
            "time_to_goal": plain(goal), "trials": trials, "cpu_seconds_per_trial": cpu}
    return figures


def shares(problems: dict[str, Problem], lines: list[dict]) -> dict:
    """Print the device-time to the goal of `AGAINST` as a share of every other method's, by problem;
    and the figures."""
    def spent(name: str, method: str) -> np.ndarray:
        found = [line["curve"] for line in lines if (line["problem"], line["method"]) == (name, method)]
        goal = SHARE * problems[name].best()
        return np.minimum([reach(curve, goal) for curve in found], FULL.get(method, OTHERS))

    found: dict[str, dict] = {}
    ran = {(line["problem"], line["method"]) for line in lines}
    print(f"\n{AGAINST}: device-time to the goal as a share of the other method's")
    print(f"{'method':22s} " + " ".join(f"{name:>22s}" for name in problems) + f" {'geometric mean':>15s}")
    for method in METHODS:
        if method != AGAINST and all({(name, method), (name, AGAINST)} <= ran for name in problems):
            found[method] = {name: interval(spent(name, AGAINST), spent(name, method)) for name in problems}
            mean = float(np.exp(np.mean([np.log(share[0]) for share in found[method].values()])))
            print(f"{method:22s} " + " ".join(f"{shown(share):>22s}" for share in found[method].values())
                  + f" {mean:15.3f}")
            found[method]["geometric mean"] = mean
    return found


def shown(values: list[float]) -> str:
    """`1.23 [1.10, 1.40]`."""
    middle, low, high = (f"{value:.3g}" if math.isfinite(value) else "-" for value in values)
    return f"{middle} [{low}, {high}]"


def plain(values: list[float]) -> list[float | None]:
    """Without infinities, which JSON has no word for."""
    return [value if math.isfinite(value) else None for value in values]


if __name__ == "__main__":
    main()
