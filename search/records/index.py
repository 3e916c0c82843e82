"""An index beside events.jsonl, so that reading a long run need not parse every line of it.

It tells the checksum of the log's first bytes, and of each entry there how long its line is and what readers
ask of every entry: `KEYS`, and of rows the metrics that a result is judged by and whatever is text (states,
reasons, devices, teachers). It is believed for exactly the bytes that it was made of: where the log's begin
differs, was cut, or the index is absent, damaged or edited, the log alone counts; what was written after it
is parsed. Whoever wants more of an entry has its line parsed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

from search.pareto.objectives import CONFIG, measured
from search.records.checking import checked, entry_problem
from search.records.events import RecordedEvent
from search.records.files import replacing
from search.records.journal import loads, parsed_lines
from search.records.spans import CLOCK

INDEX, FORMAT = "events.index", 2
KEYS = ("event", "time", CLOCK, "trial", "rung", "state", "seconds")
KINDS = ("row", "ask")
"""Events of which there are many. Others are parsed."""
OWN = ("event", CLOCK)
"""Keys of an entry that are the records' own, and not of the row that it holds."""


@dataclass(frozen=True)
class _Known:
    """What an index tells of a log: `starts` of its lines; `columns` by key, a value for each entry, None
    where it is not told; `texts`, the keys of which None says that the row has none; `names`, all keys that
    entries of a kind have."""

    content: bytes
    starts: list[int]
    columns: dict[str, list[Any]]
    texts: frozenset[str]
    names: dict[str, frozenset[str]]


class IndexedEntry(Mapping[str, Any]):
    """An entry, or without `OWN` the row in it, whose line is parsed when more than the index knows is asked
    for."""

    __slots__ = ("_entry", "_is_row", "_known", "_place")

    def __init__(self, known: _Known, place: int, is_row: bool = False):
        """`place` among the entries; the line there was checked when it was indexed."""
        self._known, self._place, self._is_row = known, place, is_row
        self._entry: dict[str, Any] | None = None

    def row(self) -> IndexedEntry:
        """The row that it holds."""
        return IndexedEntry(self._known, self._place, is_row=True)

    def __getitem__(self, key: str) -> Any:
        found = self._told(key) if self._entry is None else None
        return self._whole()[key] if found is None else found

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        if self._entry is not None:
            return self._entry.get(key, default)
        found = self._told(key)
        if found is not None:
            return found
        if not self._may_have(key):
            return default
        if default is None and key in self._known.texts and self._kind == "row":
            return None
        return self._whole().get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def items(self) -> ItemsView[str, Any]:
        """As of a dict, of which each is looked up once."""
        return self._whole().items()

    def __len__(self) -> int:
        return len(self._whole())

    def __contains__(self, key: object) -> bool:
        return self._may_have(key) and key in self._whole()

    @property
    def _kind(self) -> str:
        return self._known.columns["event"][self._place]

    def _told(self, key: str) -> Any:
        """What the index has under a key; None where it has nothing."""
        column = self._known.columns.get(key)
        return None if column is None or self._is_row and key in OWN else column[self._place]

    def _may_have(self, key: object) -> bool:
        return key in self._known.names[self._kind] and not (self._is_row and key in OWN)

    def _whole(self) -> dict[str, Any]:
        if self._entry is None:
            starts = self._known.starts
            entry = loads(self._known.content[starts[self._place]:starts[self._place + 1] - 1])
            self._entry = row_of(entry) if self._is_row else entry
        return self._entry


class Index:
    """What is written: the entries so far, line by line."""

    def __init__(self) -> None:
        self._hash, self._bytes, self._lengths = hashlib.sha256(), 0, list[int]()
        self._columns: dict[str, list[Any]] = {key: [] for key in KEYS}
        self._names: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self._texts: dict[str, tuple[dict[str, int], list[int]]] = {}
        self._others: set[str] = set(KEYS)
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
        if entry["event"] == "row":
            self._add_texts(entry, len(self._lengths))
        self._lengths.append(len(line))
        for key, column in self._columns.items():
            column.append(entry.get(key))
        if entry["event"] in KINDS:
            self._names[entry["event"]].update(entry)

    def _add_texts(self, row: Mapping[str, Any], place: int) -> None:
        """Keys of rows whose values are all text, or none. Each text is kept once."""
        for key, value in row.items():
            if key in self._others or key.startswith(CONFIG):
                continue
            if value is not None and type(value) is not str:
                self._others.add(key)
                self._texts.pop(key, None)
                continue
            numbers, at = self._texts.setdefault(key, ({}, []))
            at.extend([-1] * (place - len(at)))
            at.append(-1 if value is None else numbers.setdefault(value, len(numbers)))

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
                    column[place] = value.tolist() if hasattr(value, "tolist") else value  # numpy's
        texts = {key: [list(numbers), at] for key, (numbers, at) in self._texts.items()}
        content = json.dumps({"format": FORMAT, "sha256": self._hash.hexdigest(), "bytes": self._bytes,
                              "lengths": self._lengths, "columns": columns, "texts": texts,
                              "names": {kind: sorted(names) for kind, names in self._names.items()}}).encode()
        with replacing(path) as temporary:
            temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read_entries(log: Path, index: Path) -> list[RecordedEvent]:
    """All entries of a log in order, most of them `IndexedEntry` where there is an index of it. A torn
    last line is left out. Raises `UserError` naming the line that is no record."""
    known, rest = _read(log, index)
    found = [*_indexed(log, known)]
    found.extend(_parsed(log, known, rest))
    return found


def read_rows(log: Path, index: Path) -> list[Mapping[str, Any]]:
    """The rows among the entries, in order; as `read_entries`, and quicker where nothing else is wanted."""
    known, rest = _read(log, index)
    found: list[Mapping[str, Any]]
    found = [IndexedEntry(known, place, is_row=True)
             for place, kind in enumerate(known.columns["event"]) if kind == "row"]
    return found + rows_among([*_parsed(log, known, rest)])


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


def _read(log: Path, index: Path) -> tuple[_Known, int]:
    """What is known of a log's content, and the bytes that were indexed."""
    content = log.read_bytes()
    said = _load(index)
    if said is None or hashlib.sha256(memoryview(content)[:said["bytes"]]).hexdigest() != said["sha256"]:
        said = {"bytes": 0, "lengths": [], "columns": {"event": []}, "texts": {}, "names": {}}
    columns = dict(said["columns"])
    for key, (texts, at) in said["texts"].items():
        columns[key] = [None if number < 0 else texts[number] for number in at]
        columns[key].extend([None] * (len(said["lengths"]) - len(at)))
    known = _Known(content, [0, *accumulate(said["lengths"])], columns, frozenset(said["texts"]),
                   {kind: frozenset(names) for kind, names in said["names"].items()})
    return known, said["bytes"]


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


def _indexed(log: Path, known: _Known) -> Iterator[RecordedEvent]:
    """The entries that an index tells of this content; those of which there are few are parsed."""
    for place, kind in enumerate(known.columns["event"]):
        if kind in KINDS:
            yield cast(RecordedEvent, IndexedEntry(known, place))
        else:
            line = known.content[known.starts[place]:known.starts[place + 1] - 1]
            yield checked(log, place + 1, loads(line))


def _parsed(log: Path, known: _Known, begin: int) -> Iterator[RecordedEvent]:
    """The entries that were written after the index."""
    first = len(known.starts)
    for number, (_, entry) in enumerate(parsed_lines(log, known.content[begin:], first), start=first):
        yield checked(log, number, entry)
