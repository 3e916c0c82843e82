"""Reading a run's events as another process writes them, on this machine or on shared storage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from search.records.checking import checked
from search.records.events import RecordedEvent
from search.records.index import row_of
from search.records.journal import loads
from search.records.run_folder import EVENTS, RunFolder
from search.records.spans import WorkedSeconds
from spaces.errors import UserError

ENDED = ("complete", "stopped", "failed")


class Tail:
    """The whole lines of events.jsonl that are new since the last look."""

    def __init__(self, path: Path):
        self.path, self.place, self.lines = path, 0, 0

    def read(self) -> list[RecordedEvent]:
        """New entries in order; a line still being written is left for the next look."""
        with open(self.path, "rb") as file:
            file.seek(self.place)
            content = file.read()
        whole = content[:content.rfind(b"\n") + 1]
        self.place += len(whole)
        found = []
        for line in whole.split(b"\n")[:-1]:
            self.lines += 1
            try:
                found.append(checked(self.path, self.lines, loads(line)))
            except (ValueError, RecursionError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{self.path}, line {self.lines}: not a JSON record; the file was damaged "
                                "after it was written") from None
        return found


def follow(run: Path, every: float = 1.0, once: bool = False,
           sleep: Callable[[float], None] = time.sleep) -> Iterator[list[RecordedEvent]]:
    """Batches of new entries, empty ones too, until the run does not go on; the first holds all there is.

    A run whose folder says that it runs goes on as long as its writer holds the lock. Where locks of other
    machines cannot be seen (some network file systems), a run that wrote within the last ten minutes
    counts as going on.
    """
    folder = RunFolder.open(run)
    tail = Tail(folder.path / EVENTS)
    while True:
        running = _goes_on(folder)  # before the read: what is written last is read once more
        yield tail.read()
        if once or not running:
            return
        sleep(every)


def _goes_on(folder: RunFolder) -> bool:
    if folder.meta.get("state") != "running":
        return False
    if folder.is_live():
        return True
    return not folder.is_copy and time.time() - (folder.path / EVENTS).stat().st_mtime < 600


class Tally:
    """What the entries so far add up to."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.states: dict[int, str] = {}
        self.worked = WorkedSeconds()

    def add(self, entry: RecordedEvent) -> None:
        """Take one entry in."""
        self.worked.add(entry)
        if entry["event"] == "row":
            self.rows.append(row_of(entry))
            self.states[entry["trial"]] = entry.get("state", "")

    @property
    def counts(self) -> Counter:
        """Trials by how they ended; `running` are those with a rung and no end."""
        return Counter(state if state in ENDED else "running" for state in self.states.values())
