"""Halving that stops by prediction too while hardly any trial is complete.

The first trials are proposed when nothing is known, as many at once as there are workers, and halving runs
most of them to their end: with several objectives few are beaten by another. But their first rungs tell a
surrogate which of them are worth it, and that better points are to be expected elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.pareto.objectives import measured
from search.schedulers.promotion import Promotion
from search.schedulers.successive_halving import Decision, Problem, Row, SuccessiveHalving


class Opening(Promotion):
    """Halving; while fewer than `until` trials are complete a trial that it lets go on is also judged as
    model-based promotion does.

    By all rungs that were measured, those of running trials too, which are taken to come out as predicted.
    In the place of an objective that only the top rung measures stands its proxy, in the proportion of
    complete trials, before there are any with the largest one at a corner of the box; without a proxy
    nothing is predicted.
    Of fewer than eta trials nothing is predicted, as halving stops none of them. The problem's box holds
    all objectives' corners. In a deterministic run only ended trials up to the horizon are looked at.
    """

    def __init__(self, problem: Problem, halving: SuccessiveHalving, *, until: int):
        super().__init__(problem, startup=until, most=until)
        self.halving, self.protected = halving, halving.protected
        self._over, self._proxies = False, dict[tuple[int, int], Row]()

    def report(self, trial: int, rung: int, metrics: Row) -> Decision:
        """As promotion reports while few trials are complete, then as halving does."""
        if not self._over:
            decided = super().report(trial, rung, metrics)
            self._over = self.problem.horizon is None and sum(self._ended.values()) >= self.startup
            return decided
        decided = self.halving.report(trial, rung, metrics)
        self.reason = self.halving.reason
        return decided

    def _judge(self, trial: int, rung: int, simple: Decision) -> Decision:
        problem = self._acquisition_problem
        told = self._proxies[trial, rung].keys() | self._curves[trial][rung].keys()
        if (simple == "stop" or problem is None or trial not in self._points
                or any(item.metric not in told for item in self.problem.objectives)):
            return simple
        others = [one for one in self._ended if one in self._points and one != trial]
        if (horizon := self.problem.horizon) is None:
            others += [one for one in self._curves if one not in self._ended and one != trial
                       and one in self._points]
        else:
            others = sorted(one for one in others if one <= horizon(trial))
        complete = sum(self._ended.get(one, False) for one in others)
        if complete >= self.startup or len(others) + 1 < self.halving.eta:
            return simple
        return self._compared(problem, trial, rung, simple, others)

    def _note(self, trial: int, rung: int, row: Row) -> None:
        super()._note(trial, rung, row)
        self._proxies[trial, rung] = {metric: measured(row, proxy)
                                      for metric, proxy in self.problem.proxies.items()
                                      if math.isfinite(measured(row, proxy))}

    def _known(self, trials: list[int]) -> Sequence[Mapping[int, Row]]:
        found: list[dict[int, dict[str, Any]]] = [{rung: dict(row) for rung, row in curve.items()}
                                                  for curve in super()._known(trials)]
        for item in self.problem.objectives:
            metric = item.metric
            told = [(row, self._proxies[trial, rung][metric])
                    for trial, curve in zip(trials, found, strict=True) for rung, row in curve.items()
                    if metric in self._proxies[trial, rung]]
            both = [row[metric] / proxy for row, proxy in told if metric in row and proxy]
            largest = max((abs(proxy) for _, proxy in told), default=0.0) or 1.0
            scale = float(np.median(both)) if both else max(map(abs, self.problem.box[metric])) / largest
            for row, proxy in told:
                row.setdefault(metric, scale * proxy)
        return found
