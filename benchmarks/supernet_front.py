"""The front of ranks and bit-widths from one training run, beside today's search of the same space:
`python -m benchmarks.supernet_front [--searches 5]`.

Replays what `benchmarks.supernet_record` recorded (benchmarks/tables/supernet.parquet), seconds of a CPU
under a virtual clock, one worker. Ways to the front:

own          `adapt.mode: own`: every trial trains by itself; the default search, ehvi and halving
supernet     one training run; ehvi proposes which members to measure
all members  one training run, then every member measured: the front of those measurements
retrained    the same, and the front's members trained apart (`finish.retrain: 1`)
lowest rung  one training run; ehvi and halving, with the member as the lowest of two rungs

The front held at a moment is scored by what its points are worth trained by themselves, the mean of all
recorded seeds at the top rung: hypervolume as a share of that of the best front there is. Ways are compared
seed by seed; a seed of a supernet beyond those of own runs has the own runs of an earlier one beside it.
The goal is what the front of all members holds, less `WITHIN`; a search that ends without it counts
until its front changed last (`reached` says how many got there). Supernets are told by their steps in
those of a trial.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet

from benchmarks.arms import interval
from benchmarks.common import save
from benchmarks.replay import reach, run
from benchmarks.replay_problems import WORST, Problem, max_volume
from benchmarks.supernet_record import METRICS, SPACE, TABLE, TIMES
from search.pareto.geometry import nondominated
from search.pareto.objectives import matrix
from search.run.validation import problem
from spaces.config import PluginRef
from spaces.schema import load

METHOD = "ehvi+halving-front"
WITHIN = 0.02
SHARES = (0.95, 0.98)
Point = tuple[int, int]
"""Rank and bits."""


class Recorded(Problem):
    """Trials of one recorded seed, each trained by itself; the truth is of all seeds."""

    name = "supernet table"

    def __init__(self, rows: list[dict[str, Any]], seed: int):
        space = load(SPACE)
        self.objectives, self.rungs, self.dimensions = space.objectives, space.rungs, dict(space.dimensions)
        self.ideals, self.seed, self.points = problem(space).ideals, seed, {}
        for values in space.enumerate():
            bits = PluginRef.model_validate(values["quantization.quantizer"]).params["bits"]
            self.points[values["lora.rank"], bits] = values
        self.rows: dict[str, dict[tuple[int, Point], list[dict[str, Any]]]] = {}
        for row in rows:
            kind = row["kind"] if row["times"] is None else f"{row['kind']} {row['times']}"
            place = row["seed"], (row["rank"], row["bits"])
            self.rows.setdefault(kind, {}).setdefault(place, []).append(row)
        own = self.rows["own"]
        self.own_seed = seed % len({number for number, _ in own})
        self.truths = {point: {name: statistics.fmean(found[-1][name] for (_, place), found in own.items()
                                                      if place == point) for name in METRICS}
                       for point in self.points}
        self.full = statistics.fmean(self.seconds(point) for point in self.points)
        columns = {name: [truth[name] for truth in self.truths.values()] for name in METRICS}
        self.corners = {name: (min(column), float(np.quantile(column, WORST)))
                        for name, column in columns.items()}

    def seconds(self, point: Point) -> float:
        """CPU seconds of training a point by itself to the top rung and measuring it there."""
        rungs = self.rows["own"][self.own_seed, point]
        return (sum(row["start_seconds"] + row["train_seconds"] for row in rungs)
                + rungs[-1]["measure_seconds"])

    def place(self, values: Mapping[str, Any]) -> Point:
        """The rank and bits of a point of the space."""
        return next(point for point, known in self.points.items() if known == dict(values))

    def trial(self, values, rng):
        for row in self.rows["own"][self.own_seed, self.place(values)]:
            yield (row["start_seconds"] + row["train_seconds"] + row["measure_seconds"],
                   {name: row[name] for name in METRICS})

    def truth(self, values):
        return self.truths[self.place(values)]

    def best(self):
        return self.volume(list(self.points))

    def volume(self, points: list[Point]) -> float:
        """The true hypervolume of some points."""
        return max_volume(self, [self.truths[point] for point in points]) if points else 0.0


class Members(Recorded):
    """Trials that are members of the seed's supernet of `times` a trial's steps: nothing trains."""

    def __init__(self, rows: list[dict[str, Any]], seed: int, times: int):
        super().__init__(rows, seed)
        self.rungs, self.times = self.rungs[-1:], times

    def trial(self, values, rng):
        row, = self.rows[f"member {self.times}"][self.seed, self.place(values)]
        yield row["start_seconds"] + row["measure_seconds"], {name: row[name] for name in METRICS}


class LowestRung(Recorded):
    """The same; the lowest rung is the member of the seed's supernet of `times` a trial's steps."""

    def __init__(self, rows: list[dict[str, Any]], seed: int, times: int):
        super().__init__(rows, seed)
        self.times = times

    def trial(self, values, rng):
        point = self.place(values)
        low, = self.rows[f"lowest rung {self.times}"][self.seed, point]
        own = self.rows["own"][self.own_seed, point]
        yield low["start_seconds"] + low["measure_seconds"], {name: low[name] for name in METRICS}
        yield self.seconds(point) - own[0]["start_seconds"], {name: own[-1][name] for name in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, help="seeds; as many as were recorded unless given")
    args = parser.parse_args()
    rows = pyarrow.parquet.read_table(TABLE).to_pylist()
    trained = {(row["seed"], row["times"]) for row in rows if row["kind"] == "supernet"}
    recorded = [seed for seed, _ in sorted(trained) if all((seed, times) in trained for times in TIMES)]
    figures = [of_seed(rows, seed) for seed in sorted(set(recorded))[:args.searches]]
    save("supernet_front", {"method": METHOD, **summary(figures), "truths": truths(rows), "seeds": figures})


def truths(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What the points are worth, and how far members are behind their own runs, mean over seeds."""
    table, found = Recorded(rows, 0), {}
    for (rank, bits), truth in table.truths.items():
        own = {seed: rungs[-1]["nll_bound"] for (seed, point), rungs in table.rows["own"].items()
               if point == (rank, bits)}
        off = {f"member_{times}_over_own": statistics.fmean(
            table.rows[f"member {times}"][seed, (rank, bits)][0]["nll_bound"] / value - 1
            for seed, value in own.items()) for times in TIMES}
        found[f"{bits} bits, rank {rank}"] = {**truth, **off}
    return found


def of_seed(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The curves of one seed, [CPU seconds, share of the best front's hypervolume], and what is told
    of them."""
    table = Recorded(rows, seed)
    best = table.best()
    searched = curve(table, seed, best)
    found: dict[str, Any] = {"full_trial_seconds": table.full, "curves": {"own": searched}, "supernets": {}}
    for times in TIMES:
        (trained,) = table.rows[f"supernet {times}"][seed, (None, None)]
        began = trained["train_seconds"]
        members, front, ended = of_members(table, times, began, best)
        held, apart = members[-1][1], ended + sum(table.seconds(point) for point in front)
        ways = {"own": searched,
                "supernet": later(curve(Members(rows, seed, times), seed, best, "ehvi"), began),
                "lowest rung": later(curve(LowestRung(rows, seed, times), seed, best), began)}
        spent = {way: reach(one, (1 - WITHIN) * held) for way, one in ways.items()}
        counted = {way: min(value, ways[way][-1][0]) for way, value in spent.items()}
        spent |= {"all members": ended, "retrained": apart}
        counted = {**spent, **counted}
        found["supernets"][str(times)] = {
            "in_full_trials": began / table.full, "held": held,
            "front": [f"{bits} bits, rank {rank}" for rank, bits in front],
            "reached": {way: math.isfinite(value) for way, value in spent.items()},
            "full_trials": {way: value / table.full for way, value in counted.items()},
            "share_of_own": {way: value / counted["own"] for way, value in counted.items()}}
        found["curves"] |= {f"all members {times}": members,
                            **{f"{way} {times}": one for way, one in ways.items() if way != "own"}}
    found["full_trials_to"] = {f"{share:.0%}": plain({way: reach(one, share) / table.full for way, one in
                                                     found["curves"].items()}) for share in SHARES}
    return found


def curve(table: Recorded, seed: int, best: float, method: str = METHOD) -> list[list[float]]:
    """Of a search: CPU seconds and true hypervolume."""
    return [[when * table.full, volume / best] for when, volume in run(table, method, seed, 1)["curve"]]


def later(found: list[list[float]], began: float) -> list[list[float]]:
    """The curve of a search that began with a supernet."""
    return [[0.0, 0.0], *([when + began, volume] for when, volume in found)]


def of_members(table: Recorded, times: int, began: float,
               best: float) -> tuple[list[list[float]], list[Point], float]:
    """One member measured after the other: the curve, the front at the end, and when that was."""
    now, measured, found, front = began, {}, [[0.0, 0.0]], list[Point]()
    for point in table.points:
        row, = table.rows[f"member {times}"][table.seed, point]
        now += row["start_seconds"] + row["train_seconds"] + row["measure_seconds"]
        measured[point] = row
        kept = nondominated(matrix(measured.values(), table.objectives))
        front = [point for point, keep in zip(measured, kept, strict=True) if keep]
        found.append([now, table.volume(front) / best])
    return found, front, now


def plain(values: dict[str, float]) -> dict[str, float | None]:
    """Without infinities, which JSON has no word for."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def summary(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with 95 % half-widths, and how many seeds got there; printed."""
    found: dict[str, Any] = {"full_trial_seconds": interval([one["full_trial_seconds"] for one in figures])}
    for times in map(str, TIMES):
        runs = [one["supernets"][times] for one in figures]
        told = {name: interval([one[name] for one in runs]) for name in ("in_full_trials", "held")}
        ways = {way: {"reached": sum(one["reached"][way] for one in runs),
                      **{name: interval([one[name][way] for one in runs])
                         for name in ("full_trials", "share_of_own")}} for way in runs[0]["reached"]}
        found[f"supernet of {times}"] = {**told, "ways": ways}
    for share in figures[0]["full_trials_to"]:
        column = {way: [one["full_trials_to"][share][way] for one in figures] for way in figures[0]["curves"]}
        found[f"full_trials_to_{share}"] = {
            way: {"reached": len(known), "mean": interval(known) if len(known) > 1 else known}
            for way, values in column.items()
            for known in [[value for value in values if value is not None]]}
    print(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
