"""Ray Tune's interfaces, thinly: Tune runs the trials and their restarts, the engine decides, the pool's workers compute.

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

from search.engine import Engine, Live
from search.ray_client import Client, PoolError
from search.ray_trial import WarmTrial, owner_of

Payload = Callable[[Live], dict[str, Any]]


class TuneSearcher(Searcher):
    """Asks the engine for trials, at most `limit` at a time."""

    def __init__(self, engine: Engine, client: Client, payload: Payload, limit: int):
        super().__init__(metric=None, mode=None)
        self.engine, self.client, self.payload, self.limit = engine, client, payload, limit
        self.numbers: dict[str, int] = {}
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config; None while all slots are taken."""
        if self.error:
            return Searcher.FINISHED
        if len(self.engine.live) >= self.limit:
            return None
        try:
            trial = self.engine.ask()
        except Exception as error:  # Tune would wrap it; `run_trials` raises it as it is
            self.error = error
            trial = None
        if trial is None:
            return None if self.engine.live and not self.error else Searcher.FINISHED
        self.numbers[trial_id] = trial.number
        return {"owner": owner_of(trial.number), "payload": json.dumps(self.payload(trial))}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Frees what the trial held. With `error` its actor died more often than it is restarted.

        When the run itself breaks down, its trials are not at fault: they stay open and run again when it is resumed.
        """
        number = self.numbers[trial_id]
        if not self.error:
            self.engine.fail(number, "its Ray Tune actor died" if error else "Ray Tune ended it")
        self.client.release(owner_of(number))

    def save(self, checkpoint_path: str) -> None:
        """The study is in the run folder."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """The study is in the run folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Runs continue from their run folder, never from Tune's snapshots."""
        raise NotImplementedError(self.restore.__doc__)


class TuneScheduler(FIFOScheduler):
    """Hands every result to the engine and carries out its decision."""

    def __init__(self, searcher: TuneSearcher):
        super().__init__()
        self.searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP ends the trial whether it is dominated, complete or failed; Tune does not need to know which."""
        try:
            decision = self._decide(self.searcher.numbers[trial.trial_id], json.loads(result["outcome"]))
        except Exception as error:  # Tune would wrap it; `run_trials` raises it as it is
            self.searcher.error = self.searcher.error or error
            decision = "stop"
        return self.STOP if decision == "stop" else self.CONTINUE

    def _decide(self, number: int, outcome: dict[str, Any]) -> str:
        engine = self.searcher.engine
        if "broken" in outcome:
            raise PoolError(outcome["broken"])
        if "failed" in outcome:
            engine.fail(number, outcome["failed"], outcome.get("traceback", ""), outcome["seconds"])
            return "stop"
        return engine.report(number, outcome["event"], outcome["seconds"])


def run_trials(engine: Engine, client: Client, payload: Payload, limit: int, scratch: Path) -> None:
    """Run trials until the engine has no more. `scratch`: a folder for Tune's own files, to be thrown away.

    Errors of engine or pool are raised as they are; errors of a trial are its result.
    """
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    searcher = TuneSearcher(engine, client, payload, limit)
    trainable = tune.with_resources(tune.with_parameters(WarmTrial, client=client), {"memory": 1e6})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=searcher, scheduler=TuneScheduler(searcher), num_samples=-1,
                                    reuse_actors=True, trial_dirname_creator=str),
        run_config=tune.RunConfig(name="tune", storage_path=str(scratch), verbose=0,
                                  failure_config=tune.FailureConfig(max_failures=1)),
    )
    try:
        tuner.fit()
    finally:
        for number in list(engine.live):
            client.release(owner_of(number))
    if searcher.error:
        raise searcher.error
