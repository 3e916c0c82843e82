"""Ray Tune's interfaces, thinly: Tune keeps the slots running, the engine decides, the pool's
workers compute.

Nothing here sets a metric: to Tune every result is a step of unknown meaning.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from search.distributed.client import PoolClient, PoolError
from search.distributed.slot import Slot, owner_of
from search.engine.engine import Engine, RunningTrial
from spaces.errors import RunError
from trainable.messages import Outcome, SharedWord, TrialPayload, Work

Payload = Callable[[RunningTrial], TrialPayload]
Shared = Callable[[RunningTrial, SharedWord], None]
_DEATHS = 20  # of one slot's process, until Tune gives the slot up


class Driver:
    """Hands the engine's trials to slots and their results to the engine. Runs in Tune's event loop,
    one call at a time."""

    def __init__(self, engine: Engine, client: PoolClient, payload: Payload, shared: Shared):
        self.engine, self.client, self.payload, self.shared = engine, client, payload, shared
        self.busy: dict[int, int] = {}
        self.idle: set[int] = set()
        self.error: BaseException | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Tune writes snapshots of all it holds, though none is ever read; a running search has
        no place in them."""
        return object, ()

    def add_slot(self, slot: int) -> None:
        """A slot exists from now on."""
        self.idle.add(slot)
        self._guarded(self._fill_slots)

    def on_step(self, slot: int, outcome: str) -> None:
        """A slot has done a step."""
        self._guarded(self._handle_outcome, slot, json.loads(outcome))

    def on_slot_lost(self, slot: int) -> None:
        """Tune has given a slot up. When the run itself breaks down, its trials are not at fault:
        they stay open."""
        self.idle.discard(slot)
        number = self.busy.pop(slot, None)
        if number is not None and not self.error:
            self._guarded(self._fail, number, "its Ray Tune actor died")

    def end_overdue(self) -> None:
        """End trials whose workers have said nothing for too long. Called again and again
        while Tune waits."""
        if not self.error and (late := self.engine.overdue()):
            self._guarded(self._terminate_overdue, late)

    def _guarded(self, act: Callable[..., None], *arguments: Any) -> None:
        """What fails here is the run's end, and raised by `run_trials` as it is: Tune would wrap it."""
        try:
            act(*arguments)
        except Exception as error:
            self.error = self.error or error

    def _fill_slots(self) -> None:
        """Trials for idle slots while there are any; slots that no trial will ever need may leave."""
        for slot in sorted(self.idle):
            trial = self.engine.ask()
            if trial is None:
                break
            self.idle.remove(slot)
            self.busy[slot] = trial.number
            self._assign(slot, {"op": "trial", "number": trial.number, "owner": owner_of(trial.number),
                                "payload": self.payload(trial)})
        if self.idle and (self.engine.over or not self.busy):
            for slot in self.idle:
                self._assign(slot, {"op": "leave"})
            self.idle = set()

    def _assign(self, slot: int, work: Work) -> None:
        self.client.broker.assign.remote(slot, work)

    def _handle_outcome(self, slot: int, outcome: Outcome) -> None:
        if "broken" in outcome:
            raise PoolError(outcome["broken"])
        number = outcome["number"]
        if self.busy.get(slot) != number:  # a slot that was started again tells what is known already
            if number not in self.engine.live:
                self.client.release(owner_of(number))
            return
        if "shared" in outcome:
            if number in self.engine.live:
                self.shared(self.engine.live[number], outcome["shared"])
                if over := self.engine.spent:  # it would not come to a rung, where this is looked at
                    self.engine.stop(number, f"the {over} budget was used up before the first rung")
            if number in self.engine.live:
                self._assign(slot, {"op": "next"})
                return
        elif "failed" in outcome:
            self._fail(number, outcome["failed"], outcome["traceback"], outcome["seconds"])
        else:
            for notice in outcome["notices"]:
                self.engine.emit("warning", message=f"trial {number}: {notice}")
        if ("event" in outcome
                and self.engine.report(number, outcome["event"], outcome["seconds"]) == "continue"):
            self._assign(slot, {"op": "next"})
            return
        self.client.release(owner_of(number))
        self.client.broker.done.remote(slot)
        del self.busy[slot]
        self.idle.add(slot)
        self._fill_slots()

    def _fail(self, number: int, reason: str, trace: str = "", seconds: float | None = None) -> None:
        self.engine.fail(number, reason, trace, seconds)
        self.client.release(owner_of(number))

    def _terminate_overdue(self, late: list[int]) -> None:
        """The clock of a trial starts when workers take it up: one that waits for them, or has just
        got them, goes on."""
        most = self.engine.space.budget.trial_time
        for number, seconds in zip(late, self.client.seconds_silent([owner_of(number) for number in late]),
                                   strict=True):
            self.engine.heartbeat(number, seconds or 0.0)
            if seconds is not None and most is not None and seconds > most:
                reason = f"it said nothing for {most:g} s (budget.trial_time)"
                self.engine.fail(number, reason, seconds=self.engine.live[number].seconds + seconds)
                self.client.terminate(owner_of(number), reason)


class _SlotSearcher(Searcher):
    """Gives Tune its trials: the slots."""

    def __init__(self, driver: Driver, slots: int):
        super().__init__(metric=None, mode=None)
        self.driver, self.slots = driver, slots
        self.known: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # FINISHED is a string
        if len(self.known) == self.slots or self.driver.error:
            return Searcher.FINISHED
        self.known[trial_id] = slot = len(self.known)
        self.driver.add_slot(slot)
        return {"slot": slot}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self.driver.on_slot_lost(self.known[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """The study is in the run folder."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """The study is in the run folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Runs continue from their run folder, never from Tune's snapshots."""
        raise NotImplementedError(self.restore.__doc__)


class _ResultScheduler(FIFOScheduler):
    """Hands every result to the driver."""

    def __init__(self, driver: Driver):
        super().__init__()
        self.driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self.driver.on_step(trial.config["slot"], result["outcome"])
        return self.STOP if self.driver.error else self.CONTINUE


class _OverdueCallback(tune.Callback):
    def __init__(self, driver: Driver):
        self.driver = driver

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        self.driver.end_overdue()


class _ErrorStopper(tune.Stopper):
    """Ends all slots when the run cannot go on."""

    def __init__(self, driver: Driver):
        self.driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.driver.error is not None


def run_trials(engine: Engine, client: PoolClient, payload: Payload, shared: Shared, slots: int,
               scratch: Path) -> None:
    """Run trials, `slots` at a time, until the engine has no more. `shared` gets what a trial tells while it
    makes what it shares with others (`search.distributed.shared.prepared`). `scratch`: a folder for Tune's
    own files, to be thrown away. Errors of engine or pool are raised as they are; errors of a trial are its
    result.
    """
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    driver = Driver(engine, client, payload, shared)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Slot, client=client), {"memory": 1e6}),
        tune_config=tune.TuneConfig(search_alg=_SlotSearcher(driver, slots),
                                    scheduler=_ResultScheduler(driver), num_samples=-1,
                                    trial_dirname_creator=str),
        run_config=tune.RunConfig(name="tune", storage_path=str(scratch), verbose=0,
                                  stop=_ErrorStopper(driver), callbacks=[_OverdueCallback(driver)],
                                  failure_config=tune.FailureConfig(max_failures=_DEATHS)),
    )
    try:
        tuner.fit()
    finally:
        for number in list(engine.live):
            client.release(owner_of(number))
    if driver.error:
        raise driver.error
    if engine.live or not engine.over:
        raise RunError("Ray Tune gave all its actors up")
