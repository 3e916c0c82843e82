"""What measurements of a run say about a point: predicted objectives, and the hypervolume that it
is expected to add.

Every metric has a Gaussian process of its own (`gaussian_process`), over its logarithm where that makes the
measurements more probable. Both the searcher and the scheduler judge by this. Results are told in an order,
and the settings of the processes are fitted anew when their number has grown by a tenth: they depend on
the first so many results alone, so a search that was resumed or is played again finds the same. What
a proposal costs is bounded: predictions use `learning.LEARNED` measurements, settings are fitted to `FITTED`,
and a front has `MEMBERS` members at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.special import ndtr
from threadpoolctl import ThreadpoolController

from search.pareto.geometry import nondominated, spread_order
from search.pareto.objectives import measured
from search.pareto.reference_box import Box, Corners, choose_box
from search.samplers.encoding import PointEncoder
from search.samplers.expected_hypervolume import LogNormal, Normal, boxes, expected_improvement
from search.samplers.fitting import Pairs, default_hyperparameters
from search.samplers.gaussian_process import Features, Hyperparameters, Posterior
from search.samplers.learning import learned
from spaces.objectives import Constraint, Objective

GROWTH = 1.1
"""Results have grown by that factor when settings are fitted again."""
FITTED = 160
"""Measurements that settings are fitted to at most, drawn evenly."""
STEADY = 64
"""Results from which the metrics' settings are fitted one after the other, a result apart: together they
would hold up one proposal."""
MEMBERS = 300
"""Members of the front that gains are counted from at most, spread over it."""
FEWEST = 4
"""Measurements of a metric below which it keeps the settings that are usual."""
FIRST = 8
"""Complete results that corners which are not given are taken from."""
NOTHING = 1e-12
"""Gains (shares of the box) of that size tell points apart by their predictions alone."""
Targets = Mapping[str, tuple[Posterior, bool]]
"""Metric -> its posterior, and whether that is of the logarithm."""
Curve = Sequence[tuple[float, Mapping[str, Any]]]
"""What a trial measured, rung by rung: how far below the top rung (0 = there, in any unit),
and metrics by name."""


@dataclass(frozen=True)
class AcquisitionProblem:
    """What results are judged by. `corners` (objective -> [best, worst]) fix the hypervolume; those that
    are not given are taken from the first complete results, as the run itself does. `top`: steps of the last
    rung; None = of the complete results. `ideals`: objective -> the best value that there can be at all;
    what a process predicts beyond it is no gain. `known`: rows of the points of ended trials, by number."""

    points: PointEncoder
    objectives: Sequence[Objective]
    constraints: Sequence[Constraint] = ()
    corners: Corners = field(default_factory=lambda: MappingProxyType({}))
    top: float | None = None
    ideals: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    known: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def boxed(self) -> bool:
        """Whether all corners are given."""
        return all(item.metric in self.corners for item in self.objectives)

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Metric -> sign that makes it one to minimize, and the bound in that form;
        the tightest of several."""
        found: dict[str, tuple[float, float]] = {}
        for item in self.constraints:
            sign = 1.0 if item.op == "<=" else -1.0
            limit = min(sign * item.bound, found.get(item.metric, (sign, math.inf))[1])
            found[item.metric] = (sign, limit)
        return found


class Surrogate:
    """Predictions of the top rung from results in the order in which they were told.

    `rows`: the points, as the encoder's rows; `curves`: what each measured; `complete`: whether it is a full
    result; the last `running` of them have not ended. Raises ValueError when there is no complete result and
    the corners are not given.
    """

    def __init__(self, problem: AcquisitionProblem, rows: np.ndarray,
                 curves: Sequence[Curve], complete: Sequence[bool], running: int = 0):
        self.problem = problem
        self.rows = rows
        self._ended_count = len(rows) - running
        own = {item.metric: -1.0 if item.direction == "maximize" else 1.0 for item in problem.objectives}
        self.signs = own | {metric: sign for metric, (sign, _) in problem.bounds.items() if metric not in own}
        entries = [(owner, depth, [sign * measured(metrics, name) for name, sign in self.signs.items()])
                   for owner, curve in enumerate(curves) for depth, metrics in curve]
        owner = np.array([entry[0] for entry in entries])
        last = np.r_[owner[1:] != owner[:-1], True]
        self._table, self._owner = np.array([entry[2] for entry in entries], dtype=float), owner
        self._set_goals(self._table[last], owner[last], np.array(complete, dtype=bool))
        depth = np.array([entry[1] for entry in entries], dtype=float)
        self._depth = depth / (np.abs(depth).max() or 1.0)
        self._features = problem.points.features(self.rows)[owner]
        self._kept = learned(owner, last, self._good)
        self._shared: dict[bytes, Features] = {}  # what is known of equal places is told once
        self._targets: Targets = {name: self._target(column, name) for column, name in enumerate(self.signs)}

    def _set_goals(self, final: np.ndarray, owner: np.ndarray, complete: np.ndarray) -> None:
        """The complete results, feasible ones, the front, and the corners that hypervolume
        is told between."""
        count, names = len(self.problem.objectives), list(self.signs)
        whole = complete[owner] & np.isfinite(final).all(axis=1)
        if not whole.any() and not self.problem.boxed:
            raise ValueError("no complete result and no corners")
        found, owner = final[whole], owner[whole]
        allowed = np.ones(len(found), dtype=bool)
        for metric, (sign, bound) in self.problem.bounds.items():
            column = names.index(metric)
            allowed &= found[:, column] * sign * self.signs[metric] <= bound
        goals = found[:, :count]
        use = allowed if allowed.any() else np.ones(len(found), dtype=bool)
        self.best = owner[np.flatnonzero(use)[nondominated(goals[use])]]
        self._good = owner[use], goals[use]
        box = self._box(goals)
        self.low, self.high = np.array(box.best), np.array(box.worst)
        for metric, (sign, bound) in self.problem.bounds.items():
            column = names.index(metric)
            if column < count and sign == self.signs[metric] and bound > self.low[column]:
                self.high[column] = min(self.high[column], bound)  # what is beyond it adds nothing
        self._whole = owner[allowed]

    def _box(self, goals: np.ndarray) -> Box:
        names = list(self.signs)[:goals.shape[1]]
        seen = [{"state": "complete", "trial": place, **{name: self.signs[name] * value for name, value in
                                                         zip(names, row, strict=True)}}
                for place, row in enumerate(goals)]
        box = choose_box(seen, self.problem.objectives, first=max(1, min(FIRST, len(seen))),
                         given=self.problem.corners)
        assert box is not None, "there are as many as it waits for"
        return box

    def _target(self, column: int, name: str) -> tuple[Posterior, bool]:
        """The posterior of a metric in minimization form, and whether it is of its logarithm."""
        known = ~np.isnan(self._table[:, column])
        mark = last_refit(self._ended_count - (column if self._ended_count >= STEADY else 0))
        early = np.flatnonzero(known & (self._owner < mark))
        y = self._clipped(column, known)
        told = self._clipped(column, early) if self._ended_count >= STEADY else y
        if len(early) > FITTED:
            early = np.sort(np.random.default_rng(0).permutation(early)[:FITTED])
        table = _Table(self._features[early], self._depth[early], told[early])
        hyperparameters, log = _hyperparameters(table)
        y = np.log(np.maximum(y, 1e-12)) if log else y
        mean, scale = (float(y[known].mean()), float(y[known].std()) or 1.0) if known.any() else (0.0, 1.0)
        kept = self._kept[known[self._kept]]
        x = self._shared.setdefault(kept.tobytes(), self._features[kept])
        return Posterior(hyperparameters, x, self._depth[kept], y[kept], mean, scale), log

    def _clipped(self, column: int, of: np.ndarray) -> np.ndarray:
        """A metric in minimization form. How far beyond the worst corner a value lies does not matter, unless
        most of the measurements `of` (indices or mask) do."""
        y = self._table[:, column]
        if column < len(self.low) and len(y[of]):
            return np.minimum(y, max(2 * self.high[column] - self.low[column], np.median(y[of])))
        return y

    def predicted(self, x: Features,
                  targets: Targets | None = None) -> tuple[list[Normal | LogNormal], np.ndarray]:
        """Objectives as shares of the box, and the probability that the other constraints hold, float [m]."""
        found: list[Normal | LogNormal] = []
        holds = np.ones(len(x.values))
        own = {item.metric for item in self.problem.objectives}
        for column, (name, (posterior, log)) in enumerate((targets or self._targets).items()):
            mean, sd = posterior.predict(x)
            if name in own:
                low, width = self.low[column], self.high[column] - self.low[column]
                found.append(LogNormal(mean, sd, low, width) if log
                             else Normal((mean - low) / width, sd / width))
            if (name in self.problem.bounds
                    and (name not in own or self.problem.bounds[name][0] != self.signs[name])):
                sign, bound = self.problem.bounds[name]
                sign *= self.signs[name]
                edge = sign * bound
                edge = (math.log(edge) if edge > 0 else -math.inf) if log else edge
                holds = holds * ndtr(sign * (edge - mean) / sd)
        return found, holds

    def acquisition(self, believed: Features | None = None) -> Callable[[Features], np.ndarray]:
        """The function that tells the expected gain in hypervolume (a share of the box) of points, float [m].

        The front is that of what complete, feasible trials are predicted to be worth: by what they
        measured the lucky ones would hide all others. Points in `believed` are running: they are taken to
        come out as predicted.
        """
        front = self._front()
        targets = self._targets
        if believed is not None and len(believed.values):
            targets = {name: (posterior.believe(believed), log) for name, (posterior, log) in targets.items()}
            expected, holds = self.predicted(believed)
            front = np.vstack([front, np.column_stack([item.middle for item in expected])[holds >= 0.5]])
        ends = [self.signs[item.metric] * self.problem.ideals[item.metric]
                if item.metric in self.problem.ideals else -math.inf for item in self.problem.objectives]
        cut = boxes(front, np.ones(len(self.low)), (np.array(ends) - self.low) / (self.high - self.low))

        def gain(x: Features) -> np.ndarray:
            expected, holds = self.predicted(x, targets)
            closeness = np.exp(-sum(np.clip(item.middle, -9.0, 9.0) for item in expected))
            return expected_improvement(expected, cut) * holds + NOTHING * closeness

        return gain


    def _front(self) -> np.ndarray:
        """What complete, feasible trials are predicted to be worth, as shares of the box, float [n, k]: those
        that are not dominated, where they are many."""
        found = []
        x = self.problem.points.features(self.rows[self._whole])
        for column, (posterior, log) in enumerate(list(self._targets.values())[:len(self.low)]):
            mean, low = posterior.mean(x), self.low[column]
            found.append(((np.exp(mean) if log else mean) - low) / (self.high[column] - low))
        front = np.column_stack(found)
        if len(front) > MEMBERS:
            front = front[nondominated(front)]
        return front[np.sort(spread_order(front)[:MEMBERS])] if len(front) > MEMBERS else front


def last_refit(ended: int) -> int:
    """The last number up to `ended` at which settings are fitted."""
    mark, after = 0, FEWEST
    while after <= ended:
        mark, after = after, max(after + 1, math.ceil(after * GROWTH))
    return mark


def one_thread() -> Any:
    """A context in which linear algebra keeps to one thread: on matrices this small more of them only
    wait for each other."""
    return _threads().limit(limits=1, user_api="blas")


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


class _Table:
    """Points, depths and values as a key of a cache."""

    def __init__(self, x: Features, at: np.ndarray, y: np.ndarray):
        self.x, self.at, self.y = x, at, y
        self._bytes = (x.values.tobytes(), x.categorical.tobytes(), at.tobytes(), y.tobytes())

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table) and self._bytes == other._bytes


@lru_cache(maxsize=64)
def _hyperparameters(table: _Table) -> tuple[Hyperparameters, bool]:
    """Settings for the values or for their logarithm, whichever makes the values more probable."""
    if len(table.y) < FEWEST:
        return default_hyperparameters(table.x.values.shape[1]), False
    found, pairs = [], Pairs(table.x, table.at)
    for log in (False, True) if table.y.min() > 0 else (False,):
        y = np.log(table.y) if log else table.y
        scale = float(y.std()) or 1.0
        hyperparameters, loss = pairs.fit((y - y.mean()) / scale)
        found.append((loss + len(y) * math.log(scale) + (y.sum() if log else 0.0), log, hyperparameters))
    _, log, hyperparameters = min(found, key=lambda one: one[0])
    return hyperparameters, log
