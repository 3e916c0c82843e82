"""An index beside events.jsonl, so that reading a long run need not parse every line of it.

It tells the checksum of the log's first bytes, and of each entry there how long its line is and what readers
ask of every entry: `KEYS`, and of rows the metrics that a result is judged by. It is believed for exactly the
bytes that it was made of: where the log's begin differs, was cut, or the index is absent, damaged or edited,
the log alone counts; what was written after it is parsed. Whoever wants more of an entry has its line parsed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from search.pareto.objectives import measured
from search.records.checking import checked, entry_problem
from search.records.events import RecordedEvent
from search.records.files import replacing
from search.records.journal import loads, parsed_lines
from search.records.spans import CLOCK

INDEX, FORMAT = "events.index", 1
KEYS = ("event", "time", CLOCK, "trial", "rung", "state", "seconds")
KINDS = ("row", "ask")
"""Events of which there are many. Others are parsed."""
OWN = ("event", CLOCK)
"""Keys of an entry that are the records' own, and not of the row that it holds."""


class IndexedEntry(Mapping[str, Any]):
    """An entry, or without `OWN` the row in it, whose line is parsed when more than the index knows is asked
    for."""

    __slots__ = ("_entry", "_is_row", "_known", "_source")

    def __init__(self, source: tuple[bytes, int, int], known: dict[str, Any], is_row: bool = False):
        """`source`: content of the log, where the line begins and ends; it was checked when indexed."""
        self._source, self._known, self._is_row = source, known, is_row
        self._entry: dict[str, Any] | None = None

    def row(self) -> IndexedEntry:
        """The row that it holds."""
        known = {key: value for key, value in self._known.items() if key not in OWN}
        return IndexedEntry(self._source, known, is_row=True)

    def __getitem__(self, key: str) -> Any:
        found = self._known.get(key)  # None: said so, or not said
        return self._whole()[key] if found is None else found

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        found = self._known.get(key)
        return self._whole().get(key, default) if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def items(self) -> ItemsView[str, Any]:
        """As of a dict, of which each is looked up once."""
        return self._whole().items()

    def __len__(self) -> int:
        return len(self._whole())

    def __contains__(self, key: object) -> bool:
        return key in self._whole()

    def _whole(self) -> dict[str, Any]:
        if self._entry is None:
            content, start, end = self._source
            entry = loads(content[start:end])
            self._entry = row_of(entry) if self._is_row else entry
        return self._entry


class Index:
    """What is written: the entries so far, line by line."""

    def __init__(self) -> None:
        self._hash, self._bytes, self._lengths = hashlib.sha256(), 0, list[int]()
        self._columns: dict[str, list[Any]] = {key: [] for key in KEYS}
        self._whole = True

    def add(self, line: bytes, entry: Mapping[str, Any] | None = None) -> None:
        """Take in a line, newline included, that was appended to the log; `entry`: what it was parsed to.
        From a line on that is no record, the log is not indexed."""
        entry = loads(line) if entry is None else entry
        self._whole = self._whole and not entry_problem(entry)
        if not self._whole:
            return
        self._hash.update(line)
        self._bytes += len(line)
        self._lengths.append(len(line))
        for key, column in self._columns.items():
            column.append(entry.get(key))

    def write(self, path: Path, rows: Sequence[Mapping[str, Any]] = (), metrics: Iterable[str] = ()) -> None:
        """Replace the file in one step. `rows` of the entries, of which `metrics` are kept too. Raises
        OSError."""
        places = [place for place, kind in enumerate(self._columns["event"]) if kind == "row"]
        columns = dict(self._columns)
        for metric in metrics:
            columns[metric] = column = list[Any]([None] * len(self._lengths))
            for place, row in zip(places, rows, strict=False):  # rows that could not be indexed come last
                if math.isfinite(measured(row, metric)):
                    value = row[metric]  # as the log has it: plain, and of the type that it was of
                    column[place] = value.tolist() if isinstance(value, np.number) else value
        content = json.dumps({"format": FORMAT, "sha256": self._hash.hexdigest(), "bytes": self._bytes,
                              "lengths": self._lengths, "columns": columns}).encode()
        with replacing(path) as temporary:
            temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read_entries(log: Path, index: Path) -> list[RecordedEvent]:
    """All entries of a log in order, most of them `IndexedEntry` where there is an index of it. A torn
    last line is left out. Raises `UserError` naming the line that is no record."""
    content = log.read_bytes()
    said = _load(index)
    if said is None or hashlib.sha256(memoryview(content)[:said["bytes"]]).hexdigest() != said["sha256"]:
        said = {"bytes": 0, "lengths": [], "columns": {}}
    found = [*_indexed(log, content, said["lengths"], said["columns"])]
    first = len(found) + 1
    for number, (_, entry) in enumerate(parsed_lines(log, content[said["bytes"]:], first), start=first):
        found.append(checked(log, number, entry))
    return found


def row_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The row that an entry of the records holds, without what is the records' own."""
    return {name: value for name, value in entry.items() if name not in OWN}


def rows_among(entries: list[RecordedEvent]) -> list[Mapping[str, Any]]:
    """The rows among entries that were read, in order."""
    found: list[Mapping[str, Any]] = []
    for entry in entries:
        if entry["event"] == "row":
            one: Any = entry
            found.append(one.row() if isinstance(one, IndexedEntry) else row_of(one))
    return found


def _load(index: Path) -> dict[str, Any] | None:
    """What an index file says, if it is whole and as it was written."""
    try:
        digest, _, content = index.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        return None
    said = json.loads(content)
    return said if said["format"] == FORMAT else None


def _indexed(log: Path, content: bytes, lengths: list[int],
             columns: dict[str, list[Any]]) -> Iterator[RecordedEvent]:
    """The entries that an index tells of this content; those of which there are few are parsed."""
    start = 0
    for number, (length, *values) in enumerate(zip(lengths, *columns.values(), strict=True), start=1):
        source = (content, start, start + length - 1)
        known = dict(zip(columns, values, strict=True))
        if known["event"] in KINDS:
            yield cast(RecordedEvent, IndexedEntry(source, known))
        else:
            yield checked(log, number, loads(content[start:start + length - 1]))
        start += length
