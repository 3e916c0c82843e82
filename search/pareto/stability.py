"""Whether a member of the front holds its place when it is measured again.

A trial wins its place by one measurement each, so the best of many are a little too good. What `finish`
measures anew was not chosen: its interval says how far the place can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from search.pareto.objectives import judged, measured, total_violation, vector
from spaces.objectives import Constraint, Objective

Row = Mapping[str, Any]
Stability = Literal["held", "open", "lost"]
NORMAL = 1.959964


@dataclass(frozen=True)
class Interval:
    """A mean of `n` fresh measurements and its 95 % interval, in the metric's own unit. `of` says
    what was repeated: `seeds` (trained again, so training counts) or `again` (the same exported model,
    fresh noise)."""

    mean: float
    low: float
    high: float
    n: int
    of: Literal["seeds", "again"]

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2


def interval(row: Row, metric: str) -> Interval | None:
    """The interval of a metric from the columns that `finish` left; None where there are none.

    `METRIC_seeds`, `METRIC_seeds_sd` and `seeds` (how many) win over `METRIC_again`, `METRIC_again_sd` and
    `again`. Over seeds it is Student's t. Over repeats of one model it is normal where each repeat told
    its own standard error (`METRIC_se_again`; two or three repeats say less about the spread than that),
    else Student's t. Without any spread the interval is a point.
    """
    for of in ("seeds", "again"):
        mean, count = measured(row, f"{metric}_{of}"), measured(row, of)
        if math.isnan(mean) or not count >= 1:
            continue
        error, spread, n = measured(row, f"{metric}_se_{of}"), measured(row, f"{metric}_{of}_sd"), int(count)
        if of == "again" and math.isfinite(error):
            half = NORMAL * error / math.sqrt(n)
        elif n > 1 and math.isfinite(spread):
            half = float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)
        else:
            half = NORMAL * error if math.isfinite(error) else 0.0
        return Interval(mean, mean - half, mean + half, n, of)
    return None


def stability(rows: Sequence[Row], objectives: Sequence[Objective],
              constraints: Sequence[Constraint] = ()) -> list[Stability | None]:
    """For each member of a front, what its fresh measurements say; None for one that was not measured again.

    `lost`: at its new means another member beats it, or a constraint no longer holds. `open`: another
    member's new means lie within its reach, so that at the bad ends of its intervals it would be beaten.
    `held`: neither.
    """
    fresh = [{**row, **{metric: found.mean for metric in judged(objectives, constraints)
                        if (found := interval(row, metric))}} for row in rows]
    means = [vector(row, objectives) for row in fresh]
    marks: list[Stability | None] = []
    for index, row in enumerate(rows):
        own = [interval(row, item.metric) for item in objectives]
        if not any(own):
            marks.append(None)
            continue
        bad = means[index] + np.array([one.half if one else 0.0 for one in own])
        others = [mean for other, mean in enumerate(means) if other != index]
        if (total_violation(fresh[index], constraints) > 0
                or any(_beats(mean, means[index]) for mean in others)):
            marks.append("lost")
        else:
            marks.append("open" if any(_beats(mean, bad) for mean in others) else "held")
    return marks


def _beats(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one <= other).all() and (one < other).any())
