"""Post-training methods side by side: rows are methods with what they were calibrated on, columns are bits.

A cell is the mean of a metric over calibration seeds with its 95 % interval (Student); one seed has none.
Only trials that ran to the full budget count: others measured fewer texts in fewer states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from search.reporting.quantizers import interval

COLUMNS = ("W4A16", "W3A16", "W2A16", "W8A8", "W4A8", "W4A4")
"""Bits of weights and of activations that papers print."""
Seed = tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """Where the figure of one trial stands: its row, its column, and which of the repeats it is."""

    method: str
    source: str | None
    """What it was calibrated on; None where that changes nothing."""
    weights: str | None
    """How much a token counts; None where nothing counts tokens."""
    rest: str
    """Whatever else was searched and acts on the figure."""
    column: str
    seed: Seed
    rank: tuple[int, ...] = ()
    """Of the method among the rows."""


class Compared(NamedTuple):
    """The rows of the table, and of the columns that it does not show how many trials they have."""

    rows: list[dict[str, Any]]
    aside: Counter[str]
    seeds: int
    """The most repeats that a cell has."""


def column(bits: int, activation_bits: int) -> str:
    """`W4A16`."""
    return f"W{bits}A{activation_bits}"


def compare(found: Iterable[tuple[Placed, float]], cell: Callable[[float, float], Any],
            columns: Sequence[str] = COLUMNS) -> Compared:
    """A row for each method, source and token weight. `cell(mean, half)` writes a figure; half is NaN with
    one seed. Of two trials of one row, column and seed the last counts: they differ in what does not act."""
    rows: dict[tuple[Any, ...], dict[str, dict[Seed, float]]] = {}
    aside: Counter[str] = Counter()
    for place, value in found:
        if place.column not in columns:
            aside[place.column] += 1
            continue
        key = (place.rank, place.method, place.source or "", place.weights or "", place.rest)
        rows.setdefault(key, {}).setdefault(place.column, {})[place.seed] = value
    table = []
    for key, cells in sorted(rows.items()):
        _, method, source, weights, rest = key
        head = {"method": method, "calibrated on": source or None, "weights": weights or None,
                "rest": rest or None}
        values = {name: list(cells.get(name, {}).values()) for name in columns}
        table.append({**head, **{name: cell(*interval(each)) if each else None
                                 for name, each in values.items()}})
    if all(row["rest"] is None for row in table):
        table = [{name: value for name, value in row.items() if name != "rest"} for row in table]
    most = max((len(each) for cells in rows.values() for each in cells.values()), default=0)
    return Compared(table, aside, most)
