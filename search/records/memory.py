"""A run folder's face without a disk, for simulations and tests: rows and events in a list."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

from search.pareto.front import Front
from search.records.events import OtherEvent, RecordedEvent


class MemoryRecords:
    """What `engine.Engine` needs of a `records.run_folder.RunFolder`, kept in memory."""

    def __init__(self, meta: Mapping[str, Any] | None = None):
        self.meta: dict[str, Any] = dict(meta or {})
        self._entries: list[dict[str, Any]] = []

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._entries.append({"event": "row", "time": time.time(), **row})

    def event(self, event: OtherEvent, sync: bool = True) -> None:
        """Add an event."""
        assert event.get("event", "row") != "row", "rows go through append"
        self._entries.append({"time": time.time(), **event})

    def events(self) -> Iterator[RecordedEvent]:
        """All entries in order, rows too (event = "row")."""
        return iter(cast(list[RecordedEvent], self._entries))

    def rows(self) -> list[dict[str, Any]]:
        """The rows in the order in which they were appended."""
        return [{name: value for name, value in entry.items() if name != "event"}
                for entry in self._entries if entry["event"] == "row"]

    def update(self, **changes: Any) -> dict[str, Any]:
        """Set keys of the meta data and return the whole."""
        self.meta |= changes
        return self.meta

    def write_front(self, front: Front) -> None:
        """Nobody reads it here."""
