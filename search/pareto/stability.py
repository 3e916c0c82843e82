"""Which figure of a row to go by, and whether a member of the front holds its place when measured again.

A trial wins its place by one measurement each, so the best of many are a little too good. What `finish`
measures anew was not chosen: its interval says how far the place can be trusted. Whoever picks among members
or shows them (`Front.best`, `.knee`, `.within`, tables, report, model card) goes by `figure`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from search.pareto.objectives import dominates, judged, measured, minimized, total_violation
from search.pareto.student import student_t
from spaces.objectives import Constraint, Objective

Row = Mapping[str, Any]
Stability = Literal["held", "open", "lost"]
Source = Literal["seeds", "again", "own"]
SOURCES: tuple[Literal["seeds", "again"], ...] = ("seeds", "again")
"""What counts as fresh, what counts most first."""
NORMAL = 1.959964


@dataclass(frozen=True)
class Interval:
    """A mean of `n` measurements and its 95 % interval, in the metric's own unit. `of` says what was
    repeated: `seeds` (trained again, so training counts), `again` (the same exported model, fresh noise), or
    nothing: `own`, the one measurement by which the trial was judged in the search."""

    mean: float
    low: float
    high: float
    n: int
    of: Source

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2


def interval(row: Row, metric: str) -> Interval | None:
    """The fresh figure of a metric from the columns that `finish` left; None where there are none.

    `METRIC_seeds`, `METRIC_seeds_sd` and `seeds` (how many) win over `METRIC_again`, `METRIC_again_sd` and
    `again`. Over seeds it is Student's t. Over repeats of one model it is normal where each repeat told
    its own standard error (`METRIC_se_again`; two or three repeats say less about the spread than that),
    else Student's t. Without any spread the interval is a point.
    """
    return next((found for of in SOURCES if (found := _repeated(row, metric, of))), None)


def _repeated(row: Row, metric: str, of: Literal["seeds", "again"]) -> Interval | None:
    mean, count = measured(row, f"{metric}_{of}"), measured(row, of)
    if math.isnan(mean) or not count >= 1:
        return None
    error, spread, n = measured(row, f"{metric}_se_{of}"), measured(row, f"{metric}_{of}_sd"), int(count)
    if of == "again" and math.isfinite(error):
        half = NORMAL * error / math.sqrt(n)
    elif n > 1 and math.isfinite(spread):
        half = student_t(n - 1) * spread / math.sqrt(n)
    else:
        half = NORMAL * error if math.isfinite(error) else 0.0
    return Interval(mean, mean - half, mean + half, n, of)


def own(row: Row, metric: str) -> Interval:
    """The trial's one measurement, with the interval of its own standard error `METRIC_se`: a point without
    one, NaN where it was not measured."""
    value, error = measured(row, metric), measured(row, f"{metric}_se")
    half = NORMAL * error if math.isfinite(error) else 0.0
    return Interval(value, value - half, value + half, 1, "own")


def figure(row: Row, metric: str) -> Interval:
    """The figure to go by: the fresh one where there is one (`interval`), else the trial's own."""
    return interval(row, metric) or own(row, metric)


def trusted(row: Row, metrics: Iterable[str]) -> dict[str, Any]:
    """The row with each metric at the figure to go by."""
    return dict(row.items()) | {metric: found.mean for metric in metrics if (found := interval(row, metric))}


def source(row: Row, metrics: Iterable[str]) -> Source:
    """What the row's figures come from: `seeds` or `again` where one of them does, else `own`."""
    found = {one.of for metric in metrics if (one := interval(row, metric))}
    return next((of for of in SOURCES if of in found), "own")


def ends(row: Row, metric: str) -> dict[str, float]:
    """The 95 % intervals of a metric as columns, each named after what it is around: `METRIC_low` and `_high`
    around the trial's own `METRIC` (where it told an error), `METRIC_again_low` around `METRIC_again`,
    `METRIC_seeds_low` around `METRIC_seeds`."""
    found = {f"{metric}_{of}": _repeated(row, metric, of) for of in SOURCES}
    if math.isfinite(measured(row, f"{metric}_se")):
        found[metric] = own(row, metric)
    return {f"{name}_{end}": getattr(one, end) for name, one in found.items() if one
            for end in ("low", "high")}


def stability(rows: Sequence[Row], objectives: Sequence[Objective],
              constraints: Sequence[Constraint] = ()) -> list[Stability | None]:
    """For each member of a front, what its fresh measurements say; None for one that was not measured again.

    `lost`: at its new means another member beats it, or a constraint no longer holds. `open`: another
    member's new means lie within its reach, so that at the bad ends of its intervals it would be beaten.
    `held`: neither. Only members that were measured again can take a place from each other: a figure that
    was chosen for being good is no rival of one that was not.
    """
    names = [item.metric for item in objectives]
    anew = [source(row, names) != "own" for row in rows]
    if not any(anew):
        return [None] * len(rows)
    fresh = [trusted(row, judged(objectives, constraints)) for row in rows]
    means = [minimized(row, objectives) for row in fresh]
    marks: list[Stability | None] = []
    for index, row in enumerate(rows):
        if not anew[index]:
            marks.append(None)
            continue
        others = [mean for other, mean in enumerate(means) if other != index and anew[other]]
        if (total_violation(fresh[index], constraints) > 0
                or any(dominates(other, means[index]) for other in others)):
            marks.append("lost")
        else:
            bad = [mean + (one.half if (one := interval(row, name)) else 0.0)
                   for mean, name in zip(means[index], names, strict=True)]
            marks.append("open" if any(dominates(other, bad) for other in others) else "held")
    return marks
