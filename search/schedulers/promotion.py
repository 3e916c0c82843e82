"""When to stop, by prediction: a trial goes on while what it is still expected to add is worth the steps
that it still takes.

At a rung, Gaussian processes over all ended trials and this trial's own curve predict its final objectives
(`search.samplers.acquisition`). What it is expected to add to the front's hypervolume, per step that is
left, is compared with what the best new point is expected to add per step of a whole trial: the same
steps spent elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from search.pareto.objectives import judged, measured, searched
from search.samplers.acquisition import AcquisitionProblem, Surrogate, one_thread
from search.samplers.encoding import PointEncoder
from search.schedulers.successive_halving import Decision, Problem, Row, SuccessiveHalving, has_nonfinite

CANDIDATES = 300
"""New points that a trial is compared with, where there are not fewer in the whole space."""

CAUTION = 0.3
"""Share of the best new point's worth per step that a trial has to be worth."""

LEAST = 1e-9
"""Gain (a share of the box) below which a new point is not expected to add anything."""


class Promotion:
    """Model-based promotion. Halving decides while fewer than `startup` trials are complete, after `most`
    have ended, about a trial whose point is not told, and where no new point is expected to add anything.

    Trials in `protected` always go on. In a deterministic run only ended trials up to the
    horizon are looked at.
    """

    def __init__(self, problem: Problem, *, startup: int = 4, caution: float = CAUTION, eta: int = 3,
                 most: int = 300):
        if most < startup:
            raise ValueError(f"most is {most}; legal: at least startup, {startup}")
        self.problem, self.startup, self.caution, self.most = problem, startup, caution, most
        self.halving = SuccessiveHalving(problem, eta=eta)
        self.protected = self.halving.protected
        self.reason = ""
        self.last = problem.rungs - 1
        self._acquisition_problem = AcquisitionProblem(
            PointEncoder(problem.dimensions), problem.objectives, problem.constraints, problem.box,
            ideals=problem.ideals) if problem.dimensions else None
        self._curves: dict[int, dict[int, Row]] = {}
        self._points: dict[int, Row] = {}
        self._ended: dict[int, bool] = {}  # trial -> whether it is complete, in the order of the ends

    def report(self, trial: int, rung: int, metrics: Row) -> Decision:
        """`stop` when an objective is not finite, or when going on is expected to add less
        than starting anew."""
        simple = self.halving.report(trial, rung, metrics)
        self.reason = self.halving.reason
        if has_nonfinite(metrics, self.problem.objectives):
            self._curves.get(trial, {}).pop(rung, None)
            return "stop"
        self._note(trial, rung, metrics)
        decided = simple if trial in self.protected or rung == self.last else self._judge(trial, rung, simple)
        if decided == "stop" or rung == self.last:
            self._end(trial)
        return decided

    def restore(self, rows: Iterable[Row]) -> None:
        """Take up measurements, and which trials ended with them; nothing is decided again."""
        rows = list(rows)
        self.halving.restore(rows)
        for row in rows:
            trial, rung = row["trial"], row.get("rung")
            if rung is None or not 0 <= rung <= self.last or has_nonfinite(row, self.problem.objectives):
                continue
            self._note(trial, rung, row)
            if row.get("state") in ("stopped", "complete"):
                self._end(trial)

    def _note(self, trial: int, rung: int, row: Row) -> None:
        names = set(judged(self.problem.objectives, self.problem.constraints))
        self._curves.setdefault(trial, {})[rung] = {name: row[name]
                                                    for name in names if row.get(name) is not None}
        point = {path: value for path, value in searched(row).items() if path in self.problem.dimensions and
                 (value is not None or self.problem.dimensions[path].contains(None))}
        if point:
            self._points[trial] = point

    def _end(self, trial: int) -> None:
        whole = self._curves[trial].get(self.last, {})
        self._ended[trial] = all(not math.isnan(measured(whole, item.metric))
                                 for item in self.problem.objectives)

    def _judge(self, trial: int, rung: int, simple: Decision) -> Decision:
        ended = [other for other in self._ended if other != trial and other in self._points]
        if self.problem.horizon is not None:
            ended = sorted(other for other in ended if other <= self.problem.horizon(trial))
        complete = [self._ended[other] for other in ended]
        problem = self._acquisition_problem
        if (problem is None or trial not in self._points
            or not self.startup <= sum(complete) or len(ended) > self.most):
            return simple
        return self._compared(problem, trial, rung, simple, ended)

    def _compared(self, problem: AcquisitionProblem, trial: int, rung: int, simple: Decision,
                  others: list[int]) -> Decision:
        """Whether the trial goes on, by what it and the best new point are expected to add to what `others`
        measured; `simple` where nothing is expected of a new one."""
        complete = [self._ended.get(one, False) for one in others]
        rng = np.random.default_rng([self.problem.seed, trial, rung])
        with one_thread():
            mine, new = self._gains(problem, [*others, trial], [*complete, False], rng)
        if new <= LEAST:
            return simple
        worth = self.caution * self._left(rung) * new
        if mine >= worth:
            return "continue"
        self.reason = (f"predicted at rung {rung} to add less than a new trial: {mine:.2g} of the box, "
                       f"where going on asks for {worth:.2g}")
        return "stop"

    def _gains(self, problem: AcquisitionProblem, trials: list[int], complete: list[bool],
               rng: np.random.Generator) -> tuple[float, float]:
        """What the last of the trials is expected to add, and the best point that is none of them. Others
        that have not ended come after those that have, and are taken to come out as predicted."""
        points = problem.points
        curves = [[(float(self.last - rung), row) for rung, row in sorted(curve.items())]
                  for curve in self._known(trials)]
        rows = points.rows([self._points[trial] for trial in trials])
        running = [place for place, one in enumerate(trials[:-1]) if one not in self._ended]
        surrogate = Surrogate(problem, rows, curves, complete, running=len(running))
        gain = surrogate.acquisition(points.features(rows[running]) if running else None)
        if points.every is not None:
            tried = {row.tobytes() for row in surrogate.rows}
            options = np.array([row for row in points.every
                                if row.tobytes() not in tried]).reshape(-1, len(points.every[0]))
        else:
            best = surrogate.best if len(surrogate.best) else np.arange(len(rows))
            start = surrogate.rows[best[rng.integers(len(best), size=CANDIDATES // 2)]]
            width = np.exp(rng.uniform(np.log(0.01), np.log(0.3), len(start)))
            options = np.vstack([points.drawn(CANDIDATES - len(start), rng),
                                 points.neighbors(start, width, rng)])
        found = gain(points.features(np.vstack([surrogate.rows[-1:], options])))
        return float(found[0]), float(found[1:].max(initial=0.0))

    def _known(self, trials: list[int]) -> Sequence[Mapping[int, Row]]:
        """What the trials measured, by rung."""
        return [self._curves[trial] for trial in trials]

    def _left(self, rung: int) -> float:
        """Share of a whole trial's steps that is left after a rung."""
        steps = self.problem.steps or range(1, self.problem.rungs + 1)
        return 1.0 - steps[rung] / steps[-1]

