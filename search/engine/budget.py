"""When a run is over: whichever limit of the budget comes first, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

from search.engine.cost import Rate
from spaces.form import BudgetConfig


@dataclass
class NoImprovement:
    """Counts trials that ended without the hypervolume growing."""

    gain: float
    best: float | None = None
    trials: int = 0

    def note(self, volume: float | None) -> None:
        """A trial ended at this hypervolume (None: there is no box yet, so nothing is counted)."""
        if volume is None:
            return
        grown = self.best is None or volume > self.best + self.gain
        self.trials = 0 if grown else self.trials + 1
        self.best = volume if grown else self.best


def reached(budget: BudgetConfig, *, started: float, most: float, elapsed: float, held: float, rate: Rate,
            no_improvement: NoImprovement) -> str | None:
    """The limit that is used up, in words for the user; None while there is room for another trial.

    `started`: trials so far, of `most`; `elapsed` wall seconds; `held` group-seconds.
    """
    if started >= most:
        return "trials"
    if over := spent(budget, elapsed=elapsed, held=held, rate=rate):
        return over
    if budget.patience is not None and no_improvement.trials >= budget.patience:
        return "patience"
    return None


def spent(budget: BudgetConfig, *, elapsed: float, held: float, rate: Rate) -> str | None:
    """Which of the limits that also end running trials (at their next rung) is used up: time,
    device_hours or money."""
    hours = held * rate.devices / 3600
    limits = (("time", elapsed, budget.time), ("device_hours", hours, budget.device_hours),
              ("money", hours * (budget.price or 0.0), budget.money))
    return next((name for name, value, most in limits if most is not None and value >= most), None)


def seconds_left(budget: BudgetConfig, *, elapsed: float, held: float, groups: int, rate: Rate) -> float:
    """Wall seconds until `spent` says something, all groups being held; infinite without such a limit."""
    left = [math.inf if budget.time is None else budget.time - elapsed]
    for most, per_hour in ((budget.device_hours, 1.0), (budget.money, budget.price or 0.0)):
        if most is not None and per_hour:
            left.append((most / per_hour * 3600 / rate.devices - held) / groups)
    return max(0.0, min(left))
