"""What a tracker is: a run's events as another library's runs, one for each trial and one for the search."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from search.engine.events import EngineEvent
from spaces.schema import Space

Numbers = dict[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """What trackers are told of a run before its first event."""

    folder: Path
    space: Space

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    def steps(self, rung: int) -> int:
        """Training steps at a rung, 0 = first."""
        rungs: Sequence[int] = self.space.rungs
        return rungs[min(max(rung, 0), len(rungs) - 1)]


class Tracker(ABC):
    """Told each event of a session, in order; `close` comes last, however the session ends. Errors are
    recorded with the run, and the search goes on.

    A tracker is one file here and one line in `search.trackers.registry`.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    """What has to be importable."""
    extra: ClassVar[str]
    """The optional part of this program that installs it."""

    def __init__(self, run: TrackedRun):
        self.run = run
        self._open: set[int] = set()
        self._closed = False

    def __call__(self, event: EngineEvent) -> None:
        """Take down what an event says."""
        if event["event"] == "trial_started":
            self._open.add(event["trial"])
            self.begin(event["trial"], settings(event["values"]))
        elif event["event"] == "rung" and event["trial"] in self._open:
            self._measured(event["trial"], event["rung"], event["metrics"])
        elif event["event"] == "trial_finished":
            if event["trial"] in self._open:  # a trial that an earlier session began is not
                self._open.discard(event["trial"])
                self._measured(event["trial"], event["rung"], event["metrics"])
                self.end(event["trial"], event["state"], event["reason"], event["seconds"])
            done = event.get("complete", 0) + event.get("stopped", 0) + event.get("failed", 0)
            self.summary(done, numbers(standing(event)))
        elif event["event"] == "run_finished":
            self.close(event["state"])

    def close(self, state: str = "interrupted") -> None:
        """End all that is open. Once; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        for trial in sorted(self._open):
            self.end(trial, "failed", "the session ended before it", None)
        self._open.clear()
        self.finish(state)

    def _measured(self, trial: int, rung: int, metrics: Mapping[str, Any]) -> None:
        if found := numbers(metrics):
            self.measured(trial, self.run.steps(rung), found)

    @abstractmethod
    def begin(self, trial: int, values: Mapping[str, str | float | bool]) -> None:
        """A trial starts, with the searched values by dotted path."""

    @abstractmethod
    def measured(self, trial: int, steps: int, metrics: Numbers) -> None:
        """A trial was measured after so many training steps; never empty, all finite."""

    @abstractmethod
    def end(self, trial: int, state: str, reason: str | None, seconds: float | None) -> None:
        """A trial is over: complete, stopped or failed."""

    @abstractmethod
    def summary(self, trials: int, metrics: Numbers) -> None:
        """The search as a whole, after so many trials."""

    @abstractmethod
    def finish(self, state: str) -> None:
        """The session is over: finished, failed or interrupted."""


def numbers(metrics: Mapping[str, Any]) -> Numbers:
    """The finite numbers among them, which is all that trackers draw."""
    return {name: float(value) for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)}


def settings(values: Mapping[str, Any]) -> dict[str, str | float | bool]:
    """Searched values in plain types: a plug-in by its name, its parameters beside it."""
    found: dict[str, str | float | bool] = {}
    for path, value in values.items():
        if isinstance(value, Mapping):
            for key, inner in value.items():
                found |= settings({path if key == "name" else f"{path}.{key}": inner})
        else:
            found[path] = value if isinstance(value, str | int | float | bool) else str(value)
    return found


def standing(event: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of an event as one row of numbers."""
    cost = event.get("cost") or {}
    names = ("complete", "stopped", "failed", "front_size", "hypervolume", "elapsed")
    return {**{name: event.get(name) for name in names},
            "device_hours": cost.get("hours"), "money": cost.get("money"),
            **{f"best_{metric}": value for metric, value in (event.get("best") or {}).items()}}
