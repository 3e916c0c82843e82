"""Users' callbacks: each is told every event of a run, and none can end it by an error of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident

from search.engine.engine import Observer
from search.engine.events import EngineEvent
from spaces.errors import one_line

SAID = 3
"""Errors of one callback that are recorded; it goes on being called."""


class Callbacks:
    """Calls each callback with each event. What one raises is recorded, the first times that it happens, and
    the search goes on; KeyboardInterrupt ends it as Ctrl-C does."""

    def __init__(self, callbacks: Sequence[Observer], record: Callable[[str], None]):
        """`record`: notes one line about a callback, which may come back here as an event."""
        self.callbacks, self.record = list(callbacks), record
        self._errors = [0] * len(self.callbacks)
        self._recording: set[int] = set()  # threads; an error about the warning of an error is one too many

    def __call__(self, event: EngineEvent) -> None:
        """Tell all of them, in order."""
        for index, callback in enumerate(self.callbacks):
            try:
                callback(event)
            except Exception as error:
                self._failed(index, event, error)

    def _failed(self, index: int, event: EngineEvent, error: Exception) -> None:
        if get_ident() in self._recording:
            return
        self._errors[index] += 1
        if self._errors[index] > SAID:
            return
        more = "; further errors of it are not recorded" if self._errors[index] == SAID else ""
        self._recording.add(get_ident())
        try:
            self.record(f"callback {name_of(self.callbacks[index])} raised {one_line(error)} at "
                        f"{event['event']}{more}")
        finally:
            self._recording.discard(get_ident())


def name_of(callback: Observer) -> str:
    """What a message calls a callback: the name of the function, or of the object's class."""
    return str(getattr(callback, "__qualname__", None) or type(callback).__qualname__)
