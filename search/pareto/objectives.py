"""Measurements against objectives and constraints: vectors to minimize, violation amounts, why
a result cannot count.

A row is a flat dict: bookkeeping (`BOOKKEEPING`), searched values (`config.*`), and everything
else is a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from spaces.objectives import Constraint, Objective

if TYPE_CHECKING:  # a front of few members is told without
    import numpy as np

BOOKKEEPING = (
    "trial", "rung", "state", "tag", "fidelity", "seconds", "device", "seed", "versions", "reason", "time",
    "clock",
)
CONFIG = "config."


def measured(row: Mapping[str, Any], metric: str) -> float:
    """The measurement as a float; NaN where it is missing, None or not a number."""
    value = row.get(metric)
    if type(value) is float:  # nearly all are; asking for `Real` takes ten times as long
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    return float(value)


def measurements(row: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that was measured: neither bookkeeping nor searched values."""
    return {name: value
            for name, value in row.items() if name not in BOOKKEEPING and not name.startswith(CONFIG)}


def curve(rows: Iterable[Mapping[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """What the rows of one trial measured, rung by rung: steps and measurements, of its last run through
    the rungs. A row that tells no steps, or of a failure, is passed over."""
    found: list[tuple[float, dict[str, Any]]] = []
    for row in rows:
        steps = row.get("fidelity")
        if steps and row.get("state") != "failed":
            found = [*(rung for rung in found if rung[0] < steps), (steps, measurements(row))]
    return found


def searched(row: Mapping[str, Any]) -> dict[str, Any]:
    """The searched values of a row by dotted path, without the prefix."""
    return {name.removeprefix(CONFIG): value for name, value in row.items() if name.startswith(CONFIG)}


def judged(objectives: Iterable[Objective], constraints: Iterable[Constraint]) -> list[str]:
    """The metrics that a result is judged by: those of the objectives, then those of the constraints."""
    return [*(objective.metric for objective in objectives), *(bound.metric for bound in constraints)]


def minimized(row: Mapping[str, Any], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Objectives of one row in minimization form; NaN where one is missing."""
    return tuple((-1.0 if item.direction == "maximize" else 1.0) * measured(row, item.metric)
                 for item in objectives)


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a vector is nowhere worse than the other and somewhere better; smaller is better, and NaN
    neither dominates nor is dominated."""
    return (all(a <= b for a, b in zip(one, other, strict=True))
            and any(a < b for a, b in zip(one, other, strict=True)))


def vector(row: Mapping[str, Any], objectives: Sequence[Objective]) -> np.ndarray:
    """`minimized`, float [k]."""
    import numpy as np

    return np.array(minimized(row, objectives))


def matrix(rows: Iterable[Mapping[str, Any]], objectives: Sequence[Objective]) -> np.ndarray:
    """`minimized` of every row, float [n, k]."""
    import numpy as np

    vectors = [minimized(row, objectives) for row in rows]
    return np.array(vectors, dtype=float).reshape(len(vectors), len(objectives))


def finished(rows: Iterable[Mapping[str, Any]], objectives: Sequence[Objective]) -> list[Mapping[str, Any]]:
    """Rows that are complete with finite objectives, one per trial (its last), in the order in which
    trials first completed."""
    latest: dict[Any, Mapping[str, Any]] = {}
    for index, row in enumerate(rows):
        if (row.get("state") == "complete"
                and all(math.isfinite(measured(row, item.metric)) for item in objectives)):
            latest[row.get("trial", f"row {index}")] = row
    return list(latest.values())


def violation(row: Mapping[str, Any], constraint: Constraint) -> float:
    """How far the row is beyond the bound, in units of the bound's size, so that amounts of
    metrics can be added.

    At most 0 when the constraint holds, positive when it does not, NaN when the metric is missing.
    """
    return constraint.violation(measured(row, constraint.metric)) / (abs(constraint.bound) or 1.0)


def total_violation(row: Mapping[str, Any], constraints: Sequence[Constraint]) -> float:
    """Sum of the positive violations of those constraints whose metric the row has; 0 = none known
    to be violated."""
    amounts = (violation(row, constraint) for constraint in constraints)
    return math.fsum(amount for amount in amounts if amount > 0)


def feasible(row: Mapping[str, Any], constraints: Sequence[Constraint]) -> bool:
    """True when every constraint is known to hold: a missing metric is not feasible."""
    return all(violation(row, constraint) <= 0 for constraint in constraints)


def fault(metrics: Mapping[str, Any] | None, objectives: Sequence[Objective],
          constraints: Sequence[Constraint] = ()) -> str | None:
    """Why these measurements cannot stand as a complete result, in one line; None when they can.

    Every objective must be finite and every constraint's metric must be a number.
    """
    found = metrics or {}
    for objective in objectives:
        value = measured(found, objective.metric)
        if not math.isfinite(value):
            return f"objective {objective.metric} {_value_text(found, objective.metric)}"
    for constraint in constraints:
        if math.isnan(measured(found, constraint.metric)):
            return (f"metric {constraint.metric} of constraint '{constraint}' "
                    f"{_value_text(found, constraint.metric)}")
    return None


def _value_text(metrics: Mapping[str, Any], metric: str) -> str:
    return f"is {metrics[metric]}" if metrics.get(metric) is not None else "was not measured"
