"""TensorBoard: event files below RUN/tensorboard, one folder for each trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.trackers.base import Numbers, TrackedRun, Tracker

FOLDER = "tensorboard"


class TensorBoardTracker(Tracker):
    """TensorBoard: `tensorboard --logdir RUN/tensorboard`; scalars by training steps, the search's own by
    trials, settings under HPARAMS."""

    name, library, extra = "tensorboard", "tensorboardX", "tensorboard"

    def __init__(self, run: TrackedRun):
        super().__init__(run)
        from tensorboardX import SummaryWriter

        self.make: Any = SummaryWriter
        self.whole: Any = self.make(str(run.folder / FOLDER / "search"))
        self.trials: dict[int, tuple[Any, dict[str, str | float | bool], Numbers]] = {}

    def begin(self, trial: int, values: Mapping[str, str | float | bool]) -> None:
        """A folder of the trial's own."""
        writer = self.make(str(self.run.folder / FOLDER / f"trial-{trial:04d}"))
        self.trials[trial] = (writer, dict(values), {})

    def measured(self, trial: int, steps: int, metrics: Numbers) -> None:
        """Scalars by training steps."""
        writer, _, latest = self.trials[trial]
        for name, value in metrics.items():
            writer.add_scalar(name, value, steps)
        latest.update(metrics)
        writer.flush()

    def end(self, trial: int, state: str, reason: str | None, seconds: float | None) -> None:
        """Settings beside the last objectives, and why it ended."""
        writer, values, latest = self.trials.pop(trial)
        aims = {aim.metric: latest[aim.metric] for aim in self.run.space.objectives if aim.metric in latest}
        if aims:
            told = {f"hparam/{name}": value for name, value in aims.items()}
            writer.add_hparams(values, told, name="hparams")
        writer.add_text("end", f"{state}: {reason}" if reason else state)
        writer.close()

    def summary(self, trials: int, metrics: Numbers) -> None:
        """Scalars of the search by the number of trials."""
        for name, value in metrics.items():
            self.whole.add_scalar(name, value, trials)
        self.whole.flush()

    def finish(self, state: str) -> None:
        """Close the files."""
        self.whole.close()
