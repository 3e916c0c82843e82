"""When to stop: asynchronous successive halving for several objectives.

At each rung a trial goes on when it is among the best 1/eta of those that reached it, ranked by non-dominated layers as
in MO-ASHA (Schmucker et al. 2021) and SMAC3: feasible before infeasible, lower layer first, within a layer the less
crowded. Ray's and Optuna's own schedulers take a single metric only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from search.front_geometry import crowding, layers
from search.objectives import matrix, measured, total_violation
from spaces.objectives import Constraint, Objective

Decision = Literal["continue", "stop"]
Row = Mapping[str, Any]


class Scheduler(Protocol):
    """What the engine asks at every rung."""

    protected: set[int]

    def report(self, trial: int, rung: int, metrics: Row) -> Decision:
        """Note what `trial` measured at `rung` (0 = first) and decide, by the reports so far and their order alone."""
        ...

    def restore(self, rows: Iterable[Row]) -> None:
        """Take up the measurements of an earlier process, in the order of the records."""
        ...


class NoHalving:
    """Lets every trial run to the last rung, except one whose objective is not a number."""

    def __init__(self, objectives: Sequence[Objective]):
        self.objectives, self.protected = tuple(objectives), set[int]()

    def report(self, trial: int, rung: int, metrics: Row) -> Decision:
        """`continue`, unless an objective was measured and is not finite."""
        return "stop" if broken(metrics, self.objectives) else "continue"

    def restore(self, rows: Iterable[Row]) -> None:
        """Nothing to take up."""


class Halving:
    """Asynchronous successive halving over `rungs` rungs.

    Nothing is stopped at a rung before `eta` trials have reached it, and never at the last rung. A share that is not
    whole is rounded up. Trials in `protected` (add to the set at any time) always go on; they still count as rivals. An
    objective that a report does not hold is left out of that comparison, as are the trials that lack one it holds.
    """

    def __init__(self, objectives: Sequence[Objective], constraints: Sequence[Constraint] = (), *, rungs: int,
                 eta: int = 3, protected: Iterable[int] = ()):
        if rungs < 1 or eta < 2:
            raise ValueError(f"rungs={rungs} and eta={eta}; legal: rungs at least 1, eta at least 2")
        self.objectives, self.constraints = tuple(objectives), tuple(constraints)
        self.rungs, self.eta, self.protected = rungs, eta, set(protected)
        self._reports: list[dict[int, Row]] = [{} for _ in range(rungs)]

    def report(self, trial: int, rung: int, metrics: Row) -> Decision:
        """`stop` when an objective is not finite, or when the trial is not among the best 1/eta at this rung so far.

        A second report of the same trial and rung (a trial that was retried) replaces the first.
        """
        if not 0 <= rung < self.rungs:
            raise ValueError(f"rung {rung} of trial {trial}: there are rungs 0 to {self.rungs - 1}")
        if broken(metrics, self.objectives):
            self._reports[rung].pop(trial, None)
            return "stop"
        self._reports[rung][trial] = dict(metrics)
        if rung == self.rungs - 1 or trial in self.protected:
            return "continue"
        return "continue" if trial in self.best(rung, metrics) else "stop"

    def best(self, rung: int, metrics: Row) -> list[int]:
        """Trials that would go on from `rung`, best first, compared on the objectives that `metrics` holds."""
        held = [item for item in self.objectives if metrics.get(item.metric) is not None]
        rivals = {trial: row for trial, row in self._reports[rung].items()
                  if all(row.get(item.metric) is not None for item in held)}
        order = rank(list(rivals.values()), held, self.constraints)
        keep = len(rivals) if len(rivals) < self.eta or not held else math.ceil(len(rivals) / self.eta)
        return [list(rivals)[index] for index in order[:keep]]

    def restore(self, rows: Iterable[Row]) -> None:
        """Take up every finite measurement that has a rung; nothing is decided again."""
        for row in rows:
            rung = row.get("rung")
            if rung is not None and 0 <= rung < self.rungs and not broken(row, self.objectives):
                names = [item.metric for item in (*self.objectives, *self.constraints)]
                self._reports[rung][row["trial"]] = {name: row[name] for name in names if row.get(name) is not None}


def rank(rows: Sequence[Row], objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()) -> np.ndarray:
    """Positions of the rows from best to worst, int [n]; rows must hold all `objectives`.

    Feasible rows come first, by layer and then by crowding distance (large first); infeasible ones follow by how far
    they violate what was measured. What is left equal keeps its order.
    """
    amounts = np.array([total_violation(row, constraints) for row in rows])
    layer, lonely = np.zeros(len(rows)), np.zeros(len(rows))
    allowed = np.flatnonzero(amounts == 0)
    vectors = matrix([rows[index] for index in allowed], objectives)
    layer[allowed] = layers(vectors)
    levels, sizes = np.unique(layer[allowed], return_counts=True)
    for level in levels[sizes > 1]:
        same = layer[allowed] == level
        lonely[allowed[same]] = crowding(vectors[same])
    return np.lexsort((-lonely, layer, amounts))


def broken(metrics: Row, objectives: Sequence[Objective]) -> bool:
    """Whether an objective was measured and is not a finite number."""
    return any(metrics.get(item.metric) is not None and not math.isfinite(measured(metrics, item.metric))
               for item in objectives)
