"""The rows of a run, one a trial: the last word on each, and the one by which it ended."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
ENDED = ("complete", "stopped", "failed")


def last_rows(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One row per trial: its last, with what earlier rungs measured and the last did not."""
    merged: dict[int, dict[str, Any]] = {}
    for row in rows:
        known = merged.setdefault(row["trial"], {})
        known.update({name: value for name, value in row.items() if value is not None or name not in known})
    return [merged[trial] for trial in sorted(merged)]


class LatestRow(Mapping[str, Any]):
    """One of `last_rows`, merged when more is asked of it than one key."""

    __slots__ = ("_merged", "_rows")

    def __init__(self, rows: Sequence[Row]):
        """`rows` of one trial, in order."""
        self._rows, self._merged = rows, dict[str, Any]()

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        if self._merged:
            return self._merged.get(key, default)
        for row in reversed(self._rows):
            if (found := row.get(key)) is not None:
                return found
        return default if default is None else self._whole().get(key, default)

    def __getitem__(self, key: str) -> Any:
        found = None if self._merged else self.get(key)
        return self._whole()[key] if found is None else found

    def items(self) -> ItemsView[str, Any]:
        """As of a dict."""
        return self._whole().items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

    def _whole(self) -> dict[str, Any]:
        if not self._merged:
            self._merged = last_rows(self._rows)[0]
        return self._merged


def latest_rows(rows: Iterable[Row]) -> list[Row]:
    """`last_rows`, for looking only: rows that are parsed when they are looked into stay unparsed until
    then."""
    own: dict[int, list[Row]] = {}
    for row in rows:
        own.setdefault(row["trial"], []).append(row)
    return [LatestRow(own[trial]) for trial in sorted(own)]


def ended_rows(rows: Iterable[Row]) -> list[Row]:
    """The row by which each trial ended, in the order in which they did; later amendments are not ends."""
    found: dict[int, Row] = {}
    for row in rows:
        if row.get("state") in ENDED:
            found.setdefault(row["trial"], row)
    return list(found.values())
