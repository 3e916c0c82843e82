"""Weights & Biases: a run for the search and one for each trial, in one group."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from search.trackers.base import Numbers, TrackedRun, Tracker


class WandbTracker(Tracker):
    """Weights & Biases, in the project WANDB_PROJECT (default qdlm), a group for the run. Offline, below
    RUN/wandb, unless WANDB_MODE says otherwise or this machine is logged in."""

    name, library, extra = "wandb", "wandb", "wandb"

    def __init__(self, run: TrackedRun):
        super().__init__(run)
        import wandb

        self.api = wandb
        self.mode = os.environ.get("WANDB_MODE") or (  # asks nobody, here or elsewhere
            "online" if wandb.login(prompt=False, verify=False) else "offline")
        self.whole = self._init("search", "search", run.space.resolved())
        self.trials: dict[int, Any] = {}

    def _init(self, name: str, kind: str, config: Mapping[str, Any]) -> Any:
        return self.api.init(
            project=os.environ.get("WANDB_PROJECT") or "qdlm", group=self.run.name, job_type=kind,
            name=f"{self.run.name}-{name}", config=dict(config), dir=str(self.run.folder), mode=self.mode,
            reinit="create_new", settings=self.api.Settings(silent=True))

    def begin(self, trial: int, values: Mapping[str, str | float | bool]) -> None:
        """A run with the settings as its configuration."""
        self.trials[trial] = self._init(f"trial-{trial:04d}", "trial", values)

    def measured(self, trial: int, steps: int, metrics: Numbers) -> None:
        """Metrics by training steps."""
        self.trials[trial].log(metrics, step=steps)

    def end(self, trial: int, state: str, reason: str | None, seconds: float | None) -> None:
        """State, reason and seconds in the run's summary; a failed trial is a crashed run."""
        run = self.trials.pop(trial)
        run.summary.update({"state": state, "reason": reason, "seconds": seconds})
        run.finish(exit_code=1 if state == "failed" else 0)

    def summary(self, trials: int, metrics: Numbers) -> None:
        """Metrics of the search by the number of trials."""
        self.whole.log(metrics, step=trials)

    def finish(self, state: str) -> None:
        """End the search's own run."""
        self.whole.finish(exit_code=0 if state == "finished" else 1)
