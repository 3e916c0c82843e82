"""What a search tells while it goes on: a method an event, named as in Ray Tune."""

from __future__ import annotations

from search.engine.events import (
    EngineEvent,
    FrontChanged,
    PrepareProgress,
    RunFinished,
    RungMeasured,
    RunStarted,
    TrialFinished,
    TrialStarted,
    WarmStarted,
    WarningRaised,
)


class Callback:
    """Override what you want to hear of. Every event holds the run's summary beside its own keys: `complete`,
    `failed`, `front_size`, `hypervolume`, `best`, `elapsed` and more (`search.records.events.Summary`).

    A plain function of one event does as well. An error of a callback is recorded with the run and the search
    goes on; KeyboardInterrupt ends the search as Ctrl-C does.
    """

    def __call__(self, event: EngineEvent) -> None:
        """Call the method that the event is for."""
        match event["event"]:
            case "run_started":
                self.on_run_start(event)
            case "prepare":
                self.on_prepare(event)
            case "warm_start":
                self.on_warm_start(event)
            case "trial_started":
                self.on_trial_start(event)
            case "rung":
                self.on_trial_result(event)
            case "trial_finished" if event["state"] == "failed":
                self.on_trial_error(event)
            case "trial_finished":
                self.on_trial_complete(event)
            case "front":
                self.on_front_change(event)
            case "warning":
                self.on_warning(event)
            case "run_finished":
                self.on_run_end(event)

    def on_run_start(self, event: RunStarted) -> None:
        """A session begins."""

    def on_prepare(self, event: PrepareProgress) -> None:
        """What trials share is made (corpus, teacher, base), or the front is measured again."""

    def on_warm_start(self, event: WarmStarted) -> None:
        """Something was learned from an earlier run."""

    def on_trial_start(self, event: TrialStarted) -> None:
        """A point was proposed."""

    def on_trial_result(self, event: RungMeasured) -> None:
        """A trial was measured at a rung and goes on."""

    def on_trial_complete(self, event: TrialFinished) -> None:
        """A trial has ended well: `state` is complete or stopped."""

    def on_trial_error(self, event: TrialFinished) -> None:
        """A trial has failed: `reason`."""

    def on_front_change(self, event: FrontChanged) -> None:
        """The front has other members now."""

    def on_warning(self, event: WarningRaised) -> None:
        """A line for the user."""

    def on_run_end(self, event: RunFinished) -> None:
        """The search is over; one that is interrupted does not come here."""
