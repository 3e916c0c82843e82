"""trackio: a local run for the search and one for each trial, in one group."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from typing import Any

from search.trackers.base import Numbers, TrackedRun, Tracker


class TrackioTracker(Tracker):
    """trackio, on this machine below TRACKIO_DIR, in the project TRACKIO_PROJECT or the space's name, a group
    for the run: `trackio show` opens it."""

    name, library, extra = "trackio", "trackio", "trackio"

    def __init__(self, run: TrackedRun):
        super().__init__(run)
        self.whole = self._init("search", run.space.resolved())
        self.trials: dict[int, Any] = {}

    def _init(self, name: str, config: Mapping[str, Any]) -> Any:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):  # it greets at each run
            return trackio.init(
                project=os.environ.get("TRACKIO_PROJECT") or self.run.space.name, group=self.run.name,
                name=f"{self.run.name}-{name}", config=dict(config), embed=False, auto_log_cpu=False,
                auto_log_gpu=False)

    def begin(self, trial: int, values: Mapping[str, str | float | bool]) -> None:
        """A run with the settings as its configuration."""
        self.trials[trial] = self._init(f"trial-{trial:04d}", values)

    def measured(self, trial: int, steps: int, metrics: Numbers) -> None:
        """Metrics by training steps."""
        self.trials[trial].log(metrics, step=steps)

    def end(self, trial: int, state: str, reason: str | None, seconds: float | None) -> None:
        """State, reason and seconds as a last line."""
        run = self.trials.pop(trial)
        run.log({"state": state, **({"reason": reason} if reason else {}),
                 **({} if seconds is None else {"seconds": seconds})})
        self._finish(run)

    def summary(self, trials: int, metrics: Numbers) -> None:
        """Metrics of the search by the number of trials."""
        self.whole.log(metrics, step=trials)

    def finish(self, state: str) -> None:
        """End the search's own run."""
        self._finish(self.whole)

    def _finish(self, run: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            run.finish()
