"""A run under a virtual clock: the same engine, searcher and scheduler as a real one, W pretended
workers, no waiting.

What a trial measures and how long each rung takes comes from a function, such as a recorded
table or a formula.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

from search.engine.engine import Engine, RunningTrial
from trainable.messages import RungResult

Rungs = Iterator[tuple[float, RungResult]]
Evaluate = Callable[[RunningTrial], Rungs]
"""A trial -> per rung, the seconds it takes (infinite: it hangs) and what it measures. May raise,
as a real trial may."""


class VirtualClock:
    """Seconds that pass only when told."""

    def __init__(self, now: float = 0.0):
        self.now = now

    def __call__(self) -> float:
        return self.now


class SimulationObserver(Protocol):
    """Is told after every event of the simulation."""

    def __call__(self, now: float, engine: Engine) -> None: ...


def simulate(engine: Engine, clock: VirtualClock, evaluate: Evaluate, workers: int,
             observer: SimulationObserver | None = None) -> None:
    """Run the engine's search to its end. `engine.clock` must be `clock`.

    A worker takes the next trial as soon as it is free; one that has to wait (`study.blocked`) asks again
    after the next event. Events of one moment are handled in the order in which they were caused. A trial
    that hangs is ended after `budget.trial_time`; without one, a hang is an error in the simulated problem.
    """
    order = itertools.count()
    queue: list[tuple[float, int, RunningTrial, Rungs, RungResult | None]] = []
    most = engine.space.budget.trial_time

    def advance(trial: RunningTrial, rungs: Rungs) -> None:
        try:
            seconds, event = next(rungs)
        except StopIteration:
            engine.fail(trial.number, "the trial ended before its last rung")
            return
        except Exception as error:
            engine.fail(trial.number, f"{type(error).__name__}: {error}")
            return
        measured: RungResult | None = event
        if most is not None and seconds > most:
            seconds, measured = most + 1e-9, None
        assert seconds < float("inf"), "a trial that hangs needs budget.trial_time"
        heapq.heappush(queue, (clock.now + seconds, next(order), trial, rungs, measured))

    def start() -> None:
        while len(engine.live) < workers and (trial := engine.ask()) is not None:
            advance(trial, evaluate(trial))

    start()
    while queue:
        clock.now, _, trial, rungs, measured = heapq.heappop(queue)
        if measured is None:
            assert trial.number in engine.overdue()
            engine.fail(trial.number, f"no word for {most:g} s")
        elif engine.report(trial.number, measured) == "continue":
            advance(trial, rungs)
        start()
        if observer is not None:
            observer(clock.now, engine)
