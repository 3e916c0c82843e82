"""What `benchmarks.post_training_search` makes of its arms: box, hypervolumes, intervals, table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.arms import interval
from search.pareto.geometry import nondominated
from search.pareto.objectives import feasible, matrix
from search.pareto.reference_box import Box
from spaces.schema import Space

SEARCH = "search"
WORST, MARGIN = 0.75, 0.1
ASKED = 1.1
Row = dict[str, Any]
Found = Mapping[str, Sequence[Row]]
"""Arm -> what it measured with each seed: `complete` (rows), `again` (the front's by other noise), `trials`,
`cpu_seconds`."""


def box_of(space: Space, rows: Sequence[Row], worst: float = WORST) -> Box:
    """From what the arms by hand measured."""
    corners = {}
    for item in space.objectives:
        column = np.array([row[item.metric] for row in rows])
        sign = 1.0 if item.direction == "minimize" else -1.0
        best, low = sign * (sign * column).min(), sign * np.quantile(sign * column, worst)
        corners[item.metric] = (float(best), float(low + MARGIN * (low - best)))
    return Box.of(corners, space.objectives)


def counted(space: Space, rows: Sequence[Row]) -> list[Row]:
    """Those that keep the space's constraints."""
    return [row for row in rows if feasible(row, space.constraints)]


def volume(space: Space, box: Box, rows: Sequence[Row], capped: bool = False) -> float:
    """Of the front of those trials that count. `capped`: what lies beyond the best corner adds nothing."""
    kept = counted(space, rows)
    if not kept:
        return 0.0
    vectors = matrix(kept, space.objectives)
    return box.hypervolume(np.maximum(vectors, box.best) if capped else vectors)


def summary(space: Space, found: Found, hands: Sequence[str]) -> dict[str, Any]:
    """Hypervolumes by arm and seed, and as multiples of the best of the arms by hand, `hands`, that all seeds
    were tried with."""
    pooled = [row for name in hands for row in found[name][0]["complete"]]
    boxes: dict[str, Any] = {}
    for label, worst in (("box", WORST), ("whole_box", 1.0)):
        box = box_of(space, pooled, worst)
        volumes = {name: [volume(space, box, one["complete"]) for one in runs]
                   for name, runs in found.items()}
        capped = {name: [volume(space, box, one["complete"], True) for one in runs]
                  for name, runs in found.items()}
        later = {name: [volume(space, box, one["again"]) for one in runs]
                 for name, runs in found.items() if all("again" in one for one in runs)}
        best = best_of(volumes, hands)
        boxes[label] = {
            "corners": box.corners(), "best_arm": best, "volumes": volumes, "to_best": ratios(volumes, best),
            "capped": ratios(capped, best), "again": ratios(later, best),
            "all_arms_together": volume(space, box, pooled) / volumes[best][0],
            "all_arms_trials": sum(found[name][0]["trials"] for name in hands),
            "by_trials": {name: {str(count): told(
                [volume(space, box, [row for row in one["complete"] if row["number"] < count]) / hand
                 for one, hand in zip(found[name], volumes[best], strict=True)])
                for count in quarters(found[name])} for name in found if name not in hands}}
    mean, half = boxes["box"]["to_best"][SEARCH]
    return {**boxes, "target": {"asked": ASKED, "mean": mean, "half": half, "holds": mean >= ASKED},
            "arms": {name: {"trials": [one["trials"] for one in runs],
                            "complete": [len(one["complete"]) for one in runs],
                            "counted": [len(counted(space, one["complete"])) for one in runs],
                            "cpu_seconds": [one["cpu_seconds"] for one in runs],
                            "losses_cpu": [one["losses_cpu"] for one in runs if "losses_cpu" in one]}
                     for name, runs in found.items()},
            "first_rung": first_rung([row.get("rungs", ()) for one in found[SEARCH]
                                      for row in one["complete"]]),
            "fronts": [front(space, one["complete"]) for one in found[SEARCH]]}


def first_rung(rungs: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """What the first rung of trials says about their last one, by metric: Spearman's rank correlation. With
    the median `cpu_seconds` of both, and how many trials; empty of trials with one rung."""
    pairs = [(each[0], each[-1]) for each in rungs if len(each) > 1]
    if not pairs:
        return {}
    return {"trials": len(pairs),
            "cpu_seconds": [statistics.median(one[end]["cpu_seconds"] for one in pairs) for end in (0, 1)],
            "spearman": {name: float(spearmanr([low[name] for low, _ in pairs],
                                               [top[name] for _, top in pairs]).statistic)
                         for name in pairs[0][0] if name != "cpu_seconds"}}


def best_of(volumes: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """The largest mean of those with as many seeds as any."""
    most = max(len(each) for each in volumes.values())
    means = {name: statistics.fmean(volumes[name]) for name in names if len(volumes[name]) == most}
    return max(means, key=means.__getitem__)


def ratios(volumes: Mapping[str, Sequence[float]], best: str) -> dict[str, list[float | None]]:
    """Volumes as multiples of those of one arm, seed by seed: mean and half-width."""
    return {name: told([own / hand for own, hand in zip(each, volumes[best], strict=False)])
            for name, each in volumes.items()}


def told(values: Sequence[float]) -> list[float | None]:
    """Mean and half-width of its 95 % interval; None of one value, which has no width."""
    mean, half = interval(list(values))
    return [mean, half if math.isfinite(half) else None]


def shown(values: Sequence[float | None], digits: int) -> str:
    """The same in print."""
    mean, half = values
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def quarters(runs: Sequence[Row]) -> list[int]:
    """Budgets at which a search is told: quarters of the whole."""
    most = max(one["trials"] for one in runs)
    return [most * part // 4 for part in range(1, 5)]


def front(space: Space, rows: Sequence[Row]) -> list[Row]:
    """The members of those that count, by size."""
    kept = counted(space, rows)
    members = nondominated(matrix(kept, space.objectives)) if kept else ()
    return sorted(({name: value for name, value in row.items() if name != "rungs"}
                   for row, member in zip(kept, members, strict=True) if member),
                  key=lambda row: row["size_bytes"])


def show(figures: Mapping[str, Any]) -> None:
    """Print the table as Markdown."""
    box, whole, arms = figures["box"], figures["whole_box"], figures["arms"]
    columns = {"of the best arm's": box["to_best"], "nothing beyond the best corner": box["capped"],
               "front measured again": box["again"], "whole box": whole["to_best"]}
    print("\n| | trials | counted | seeds | CPU s | hypervolume |", " | ".join(columns), "|")
    print("|---" * (6 + len(columns)) + "|")
    for name, volumes in box["volumes"].items():
        own = arms[name]
        cells = [shown(each[name], 2) if name in each else "" for each in columns.values()]
        print(f"| {name} | {statistics.fmean(own['trials']):.0f} | {statistics.fmean(own['counted']):.0f} "
              f"| {len(volumes)} | {statistics.fmean(own['cpu_seconds']):.0f} | {shown(told(volumes), 3)} | "
              + " | ".join(cells) + " |")
    print("constraints", figures["constraints"], "corners", box["corners"])
    print("best arm", box["best_arm"], "all arms by hand together", box["all_arms_together"],
          whole["all_arms_together"], box["all_arms_trials"], "trials")
    print("by trials", box["by_trials"])
    print("first rung", figures["first_rung"])
    print(figures["target"])
