"""Tables over repeats: a row and a column for each trial, and in their cell the mean over those that differ
by nothing but a seed, with its 95 % interval (Student); one repeat has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from search.reporting.quantizers import interval

Repeat = tuple[Any, ...]


@dataclass(frozen=True)
class Placed:
    """Where the figure of one trial stands: its row, its column, and which of the repeats it is."""

    head: dict[str, str | None]
    """What names the row, in order; None where something changes nothing. All rows have the same keys."""
    rest: str
    """Whatever else was searched and acts on the figure."""
    column: str
    repeat: Repeat
    rank: tuple[int, ...] = ()
    """Among the rows."""


class Compared(NamedTuple):
    """The rows of the table, and of the columns that it does not show how many trials they have."""

    rows: list[dict[str, Any]]
    aside: Counter[str]
    repeats: int
    """The most that a cell has."""


def compare(found: Iterable[tuple[Placed, float]], cell: Callable[[float, float], Any],
            columns: Sequence[str]) -> Compared:
    """A row for each head and rest. `cell(mean, half)` writes a figure; half is NaN with one repeat. Of two
    trials of one row, column and repeat the last counts: they differ in what does not act."""
    rows: dict[tuple[Any, ...], dict[str, dict[Repeat, float]]] = {}
    heads: dict[tuple[Any, ...], dict[str, str | None]] = {}
    aside: Counter[str] = Counter()
    for place, value in found:
        if place.column not in columns:
            aside[place.column] += 1
            continue
        key = (place.rank, *(text or "" for text in place.head.values()), place.rest)
        heads[key] = {**place.head, "rest": place.rest or None}
        rows.setdefault(key, {}).setdefault(place.column, {})[place.repeat] = value
    table = []
    for key, cells in sorted(rows.items()):
        values = {name: list(cells.get(name, {}).values()) for name in columns}
        table.append({**heads[key], **{name: cell(*interval(each)) if each else None
                                       for name, each in values.items()}})
    if all(row["rest"] is None for row in table):
        table = [{name: value for name, value in row.items() if name != "rest"} for row in table]
    most = max((len(each) for cells in rows.values() for each in cells.values()), default=0)
    return Compared(table, aside, most)
