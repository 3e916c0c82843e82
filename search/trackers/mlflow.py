"""MLflow: a run for the search, and one nested in it for each trial."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from search.trackers.base import Numbers, TrackedRun, Tracker

ENDS = {"complete": "FINISHED", "finished": "FINISHED", "stopped": "KILLED", "interrupted": "KILLED"}
LONGEST = 5000
"""Characters of a tag, which MLflow bounds."""


class MLflowTracker(Tracker):
    """MLflow, where MLFLOW_TRACKING_URI says (its own default unless set), in the experiment
    MLFLOW_EXPERIMENT_NAME or the space's name; trials are nested runs."""

    name, library, extra = "mlflow", "mlflow", "mlflow"

    def __init__(self, run: TrackedRun):
        super().__init__(run)
        from mlflow import MlflowClient

        self.client = MlflowClient()
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.space.name
        known = self.client.get_experiment_by_name(title)
        self.experiment = known.experiment_id if known else self.client.create_experiment(title)
        self.parent = self._create(run.name, {"qdlm.run": str(run.folder)})
        self.client.log_text(self.parent, run.space.to_yaml(), "space.yaml")
        self.runs: dict[int, str] = {}

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        made: Any = self.client.create_run(self.experiment, run_name=name, tags=dict(tags))
        return str(made.info.run_id)

    def begin(self, trial: int, values: Mapping[str, str | float | bool]) -> None:
        """A nested run with the settings as parameters."""
        from mlflow.entities import Param

        self.runs[trial] = self._create(f"trial-{trial:04d}", {"mlflow.parentRunId": self.parent})
        params = [Param(key, str(value)) for key, value in values.items()]
        self.client.log_batch(self.runs[trial], params=params)

    def measured(self, trial: int, steps: int, metrics: Numbers) -> None:
        """Metrics by training steps."""
        self._log(self.runs[trial], steps, metrics)

    def end(self, trial: int, state: str, reason: str | None, seconds: float | None) -> None:
        """The run's status; state and reason as tags."""
        run = self.runs.pop(trial)
        self.client.set_tag(run, "qdlm.state", state)
        if reason:
            self.client.set_tag(run, "qdlm.reason", reason[:LONGEST])
        if seconds is not None:
            self._log(run, 0, {"seconds": seconds})
        self.client.set_terminated(run, ENDS.get(state, "FAILED"))

    def summary(self, trials: int, metrics: Numbers) -> None:
        """Metrics of the search's own run by the number of trials."""
        self._log(self.parent, trials, metrics)

    def finish(self, state: str) -> None:
        """The status of the search's own run."""
        self.client.set_terminated(self.parent, ENDS.get(state, "FAILED"))

    def _log(self, run: str, step: int, metrics: Numbers) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(run, metrics=[Metric(key, value, now, step) for key, value in metrics.items()])
