"""The rows of a run, one a trial: the last word on each, and the one by which it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def ended_rows(rows: Iterable[Row]) -> list[Row]:
    """The row by which each trial ended, in the order in which they did; later amendments are not ends."""
    found: dict[int, Row] = {}
    for row in rows:
        if row.get("state") in ENDED:
            found.setdefault(row["trial"], row)
    return list(found.values())
