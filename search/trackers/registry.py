"""Trackers by name. A new one is one file and one line here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib import import_module

from search.trackers.base import TrackedRun, Tracker
from spaces.errors import UserError, one_line
from spaces.shell import extra_command
from spaces.values import did_you_mean

TRACKERS = {
    "mlflow": "search.trackers.mlflow:MLflowTracker",
    "tensorboard": "search.trackers.tensorboard:TensorBoardTracker",
    "trackio": "search.trackers.trackio:TrackioTracker",
    "wandb": "search.trackers.wandb:WandbTracker",
}
"""Name -> import path of a `Tracker`."""


def tracker(name: str) -> type[Tracker]:
    """The class of a tracker. Raises `UserError` for an unknown name."""
    if name not in TRACKERS:
        hint = did_you_mean(name, TRACKERS)
        raise UserError(f"unknown tracker {name!r}{hint}; legal: {', '.join(TRACKERS)}")
    module, _, attribute = TRACKERS[name].partition(":")
    found: type[Tracker] = getattr(import_module(module), attribute)
    return found


def check_trackers(names: Sequence[str]) -> None:
    """Raises `UserError` for a tracker that is unknown, or whose library is not installed."""
    for name in names:
        found = tracker(name)
        if importlib.util.find_spec(found.library) is None:
            raise UserError(f"track: {name}: {found.library} is not installed; "
                            f"run: {extra_command(found.extra)}")


def start(names: Sequence[str], run: TrackedRun) -> list[Tracker]:
    """The trackers of a run, begun. Raises `UserError` where one cannot be: no server, no login."""
    begun: list[Tracker] = []
    for name in dict.fromkeys(names):
        try:
            begun.append(tracker(name)(run))
        except Exception as error:
            for other in begun:
                other.close("failed")
            raise UserError(f"track: {name} cannot begin: {one_line(error)}") from error
    return begun


def close_all(trackers: Sequence[Tracker], state: str, warn: Callable[[str], None]) -> None:
    """End what they have open; `warn` gets a line for each that cannot."""
    for one in trackers:
        try:
            one.close(state)
        except Exception as error:
            warn(f"tracker {one.name}: {one_line(error)}")
