"""When to stop: asynchronous successive halving for several objectives.

At each rung a trial goes on when it is among the best 1/eta of those that reached it, ranked by non-dominated
layers as in MO-ASHA (Schmucker et al. 2021) and SMAC3: feasible before infeasible, lower layer first,
within a layer by what the layer would lose without the trial. Ray's and Optuna's own schedulers take
a single metric only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np

from search.pareto.geometry import contributions, crowding, dominators, layers, spread_order
from search.pareto.objectives import judged, matrix, measured, total_violation
from spaces.dimensions import Dimension
from spaces.objectives import Constraint, Objective

Decision = Literal["continue", "stop"]
Row = Mapping[str, Any]
WINDOW = 400
"""Rivals that a trial is compared with at most: the latest at its rung, so that a decision costs the same at
the ten thousandth trial as at the thousandth."""
NONFINITE = "an objective is not a finite number"
MOST_EXACT = 24
"""Rows up to which hypervolume contributions are computed; a larger layer is cut by crowding first."""


@dataclass(frozen=True)
class Problem:
    """What a scheduler judges by.

    `proxies`: for an objective that is measured at the top rung only (the latency of an exported model),
    a metric of the same direction that lower rungs have (operations per sentence). `dimensions`, `box` and
    `steps` (what is searched, the hypervolume's corners, the steps of each rung) are for a scheduler that
    predicts, as are `ideals`: objective -> the best value that there can be. `horizon`: in a deterministic
    run, the last trial that a decision about a trial may look at (`replay.DeterministicSearcher.horizon`);
    None = all that was reported.
    """

    objectives: Sequence[Objective]
    constraints: Sequence[Constraint] = ()
    rungs: int = 1
    proxies: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0
    dimensions: Mapping[str, Dimension] = field(default_factory=lambda: MappingProxyType({}))
    box: Mapping[str, Sequence[float]] = field(default_factory=lambda: MappingProxyType({}))
    steps: Sequence[int] = ()
    horizon: Callable[[int], float] | None = None
    ideals: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class Scheduler(Protocol):
    """What the engine asks at every rung."""

    protected: set[int]
    reason: str
    """Why the last `stop` was said, in one line: `KIND: details`."""

    def report(self, trial: int, rung: int, metrics: Row) -> Decision:
        """Note what `trial` measured at `rung` (0 = first, the last one too) and decide,
        by the reports so far and their order alone. Beside its measurements the row holds the point,
        as `config.PATH`, as the rows of the records do."""
        ...

    def restore(self, rows: Iterable[Row]) -> None:
        """Take up the measurements of an earlier process, in the order of the records."""
        ...


class NoStopping:
    """Lets every trial run to the last rung, except one whose objective is not a number."""

    def __init__(self, problem: Problem):
        self.objectives, self.protected = tuple(problem.objectives), set[int]()
        self.reason = NONFINITE

    def report(self, trial: int, rung: int, metrics: Row) -> Decision:
        """`continue`, unless an objective was measured and is not finite."""
        return "stop" if has_nonfinite(metrics, self.objectives) else "continue"

    def restore(self, rows: Iterable[Row]) -> None:
        """Nothing to take up."""


class SuccessiveHalving:
    """Asynchronous successive halving over the rungs of a problem.

    Nothing is stopped at a rung before `eta` trials have reached it, and never at the last rung. A share
    that is not whole is rounded up. Trials in `protected` (add to the set at any time) always go on; they
    still count as rivals. An objective that a report does not hold is replaced by its proxy or, without one,
    left out of that comparison, as are the trials that lack what it holds. With `brackets` B, a share of
    about (1/eta)^b of the trials is in bracket b < B, where nothing is stopped before rung b (asynchronous
    Hyperband, Li et al. 2020), a hedge against early rungs that mislead; which trials is drawn from the seed.
    With `spare_front` no trial is stopped that no rival beats, however many those are: with four objectives
    that can be most, and stopping them costs more than it saves (docs/search.md).
    """

    def __init__(self, problem: Problem, *, eta: int = 3, ties: str = "crowding", brackets: int = 1,
                 spare_front: bool = True, protected: Iterable[int] = ()):
        if problem.rungs < 1 or eta < 2:
            raise ValueError(f"rungs={problem.rungs} and eta={eta}; legal: rungs at least 1, eta at least 2")
        if ties not in TIES:
            raise ValueError(f"ties is {ties!r}; legal: {', '.join(TIES)}")
        if brackets < 1:
            raise ValueError(f"brackets is {brackets}; legal: at least 1")
        self.problem, self.objectives, self.constraints = (problem, tuple(problem.objectives),
                                                           tuple(problem.constraints))
        self.rungs, self.eta, self.ties, self.protected = problem.rungs, eta, ties, set(protected)
        self.spare_front = spare_front
        self.reason = ""
        self.brackets = min(brackets, self.rungs)
        self._reports: list[dict[int, Row]] = [{} for _ in range(self.rungs)]
        self._kept = [*judged(self.objectives, self.constraints), *problem.proxies.values()]

    def report(self, trial: int, rung: int, metrics: Row) -> Decision:
        """`stop` when an objective is not finite, or when the trial is not among the best 1/eta
        at this rung so far.

        A second report of the same trial and rung (a trial that was retried) replaces the first.
        """
        if not 0 <= rung < self.rungs:
            raise ValueError(f"rung {rung} of trial {trial}: there are rungs 0 to {self.rungs - 1}")
        if has_nonfinite(metrics, self.objectives):
            self._reports[rung].pop(trial, None)
            self.reason = NONFINITE
            return "stop"
        self._reports[rung][trial] = self._note(metrics)
        if rung == self.rungs - 1 or trial in self.protected or rung < self.bracket(trial):
            return "continue"
        kept = self.best(rung, trial)
        if trial in kept:
            return "continue"
        self.reason = self._why(rung, trial, len(kept))
        return "stop"

    def bracket(self, trial: int) -> int:
        """The first rung at which the trial can be stopped."""
        if self.brackets == 1:
            return 0
        weights = np.array([float(self.eta) ** -index for index in range(self.brackets)])
        return int(np.random.default_rng([self.problem.seed, trial]).choice(self.brackets,
                                                                            p=weights / weights.sum()))

    def best(self, rung: int, trial: int) -> list[int]:
        """Trials that would go on from `rung`, best first, compared on what the report of `trial` holds."""
        held = self.compared(self._reports[rung][trial])
        rivals = self._comparable(rung, trial, held)
        if len(rivals) < self.eta or not held:
            return list(rivals)
        rows = list(rivals.values())
        order = rank(rows, held, self.constraints, self.ties)
        keep = math.ceil(len(rivals) / self.eta)
        if self.spare_front:
            allowed = [row for row in rows if total_violation(row, self.constraints) == 0]
            keep = max(keep, int((layers(matrix(allowed, held)) == 0).sum()))
        return [list(rivals)[index] for index in order[:keep]]

    def _comparable(self, rung: int, trial: int, held: Sequence[Objective]) -> dict[int, Row]:
        """The reports to compare with that of `trial`, itself the last: those that hold what it holds."""
        rivals = {number: self._reports[rung][number] for number in self._rivals(rung, trial)}
        return {number: row
                for number, row in rivals.items() if all(row.get(item.metric) is not None for item in held)}

    def _why(self, rung: int, trial: int, kept: int) -> str:
        """Why a trial does not go on from a rung where `kept` do: a constraint that it breaks, or the best
        of the trials that beat it on all that is compared, or that there are too many others."""
        metrics = self._reports[rung][trial]
        for bound in self.constraints:
            if total_violation(metrics, [bound]) > 0:
                value = f"{measured(metrics, bound.metric):.6g}"
                return (f"infeasible on {bound.metric} at rung {rung}: {value} "
                        f"where {bound.op} {bound.bound:.6g} is asked")
        held = self.compared(metrics)
        rivals = self._comparable(rung, trial, held)
        numbers, rows = list(rivals), list(rivals.values())
        points = matrix(rows, held)
        allowed = np.array([total_violation(row, self.constraints) == 0 for row in rows])
        beats = allowed & dominators(points, points[-1])
        first = next((index for index in rank(rows, held, self.constraints, self.ties) if beats[index]), None)
        if first is not None:
            return f"beaten by trial {numbers[first]} at rung {rung}: {kept} of {len(rows)} go on"
        return f"quota of rung {rung}: {kept} of {len(rows)} go on, those that add more"

    def compared(self, metrics: Row) -> list[Objective]:
        """The objectives that a report can be judged by, proxies in the place of those that it lacks."""
        found = []
        for item in self.objectives:
            name = next((name for name in (item.metric, self.problem.proxies.get(item.metric))
                         if name is not None and metrics.get(name) is not None), None)
            if name is not None:
                found.append(Objective(name, item.direction))
        return found

    def _rivals(self, rung: int, trial: int) -> list[int]:
        """The latest reports at the rung that a decision about `trial` may look at, itself the last;
        oldest first, in a deterministic run by number: equal rivals are told apart by their order."""
        told: Iterator[int] = reversed(self._reports[rung])
        last = math.inf
        if self.problem.horizon is not None:
            told, last = iter(sorted(self._reports[rung], reverse=True)), self.problem.horizon(trial)
        latest = (number for number in told if number <= last and number != trial)
        return [*reversed(list(islice(latest, WINDOW - 1))), trial]

    def _note(self, metrics: Row) -> Row:
        return {name: metrics[name] for name in self._kept if metrics.get(name) is not None}

    def restore(self, rows: Iterable[Row]) -> None:
        """Take up every finite measurement that has a rung; nothing is decided again."""
        for row in rows:
            rung = row.get("rung")
            if rung is not None and 0 <= rung < self.rungs and not has_nonfinite(row, self.objectives):
                self._reports[rung][row["trial"]] = self._note(row)


def rank(rows: Sequence[Row], objectives: Sequence[Objective], constraints: Sequence[Constraint] = (),
         ties: str = "crowding") -> np.ndarray:
    """Positions of the rows from best to worst, int [n]; rows must hold all `objectives`.

    Feasible rows come first, by layer and then by what `ties` makes of the layer; infeasible ones follow by
    how far they violate what was measured. What is left equal keeps its order.
    """
    amounts = np.array([total_violation(row, constraints) for row in rows])
    layer, lonely = np.zeros(len(rows)), np.zeros(len(rows))
    allowed = np.flatnonzero(amounts == 0)
    vectors = matrix([rows[index] for index in allowed.tolist()], objectives)
    layer[allowed] = layers(vectors)
    levels, sizes = np.unique(layer[allowed], return_counts=True)
    for level in levels[sizes > 1]:
        same = layer[allowed] == level
        lonely[allowed[same]] = TIES[ties](vectors[same])
    return np.lexsort((-lonely, layer, amounts))


def _lost_volume(vectors: np.ndarray) -> np.ndarray:
    """Hypervolume that the layer would lose, on axes scaled to the layer, the worst corner a tenth beyond it.

    Computed exactly for the `MOST_EXACT` rows that lie loneliest; the others come after, by crowding.
    """
    value = crowding(vectors)
    lonely = np.argsort(-value, kind="stable")[:MOST_EXACT]
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    scaled = (vectors - low) / np.where(high > low, high - low, 1.0)
    finite = np.where(np.isfinite(value), value, 0.0)
    value = finite / (1.0 + finite.max(initial=0.0)) - 1.0  # below every contribution
    value[lonely] = contributions(scaled[lonely], np.full(vectors.shape[1], 1.1))
    return value


def _spread(vectors: np.ndarray) -> np.ndarray:
    """The place in the epsilon-net order of the layer, on axes scaled to the layer; first is largest."""
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    value = np.empty(len(vectors))
    value[spread_order((vectors - low) / np.where(high > low, high - low, 1.0))] = -np.arange(len(vectors))
    return value


TIES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {"crowding": crowding, "hypervolume": _lost_volume, "spread": _spread})
"""How the rows of one layer are told apart: [n, k] in minimization form -> float [n], the larger the
sooner it goes on."""


def has_nonfinite(metrics: Row, objectives: Sequence[Objective]) -> bool:
    """Whether an objective was measured and is not a finite number."""
    return any(metrics.get(item.metric) is not None and not math.isfinite(measured(metrics, item.metric))
               for item in objectives)
