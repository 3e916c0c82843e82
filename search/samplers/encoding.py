"""Points of a space as rows of numbers, conditions included: what candidates are drawn as and a surrogate
computes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from search.samplers.gaussian_process import Features
from spaces.dimensions import Dimension
from spaces.points import order, walk
from spaces.values import key

LISTED = 4096
"""Points up to which a finite space is its own list of candidates."""


class PointEncoder:
    """Rows of points, float [n, d], a dimension after those that its conditions name: the value of
    a range, the place of a choice, NaN where the dimension is not active."""

    def __init__(self, dimensions: Mapping[str, Dimension]):
        self.dimensions = {path: dimensions[path] for path in order(dimensions)}
        self._list = list(self.dimensions.values())
        self._column = {path: place for place, path in enumerate(self.dimensions)}
        self._places = [{key(value): float(place) for place, value in enumerate(item.choice or ())}
                        for item in self._list]
        self._when = [[(self._column[parent],
                        np.array([self._number(self._column[parent], value) for value in values]))
                       for parent, values in item.when.items()] for item in self._list]
        self._ordered = [_ordered(item) for item in self._list]

    def _number(self, place: int, value: Any) -> float:
        if self._places[place]:
            return self._places[place].get(key(value), np.nan)
        return float(value) if isinstance(value, int | float) else np.nan

    def rows(self, points: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Of points by dotted path, float [n, d]. What a point leaves out counts as not active."""
        found = np.full((len(points), len(self._list)), np.nan)
        for row, point in zip(found, points, strict=True):
            for path, value in point.items():
                row[self._column[path]] = self._number(self._column[path], value)
        return found

    def point(self, row: np.ndarray) -> dict[str, Any]:
        """The point of one row."""
        return {path: item.choice[int(number)] if item.choice else item.canonical(number)
                for (path, item), number in zip(self.dimensions.items(), row.tolist(), strict=True)
                if number == number}

    def features(self, rows: np.ndarray) -> Features:
        """For the surrogate: a range as [0, 1], numbers to choose from by their order, another choice
        as a code; what is not active stands in the middle of a range, and is a code of its own."""
        found = np.empty_like(rows)
        categorical = np.array([item.kind == "choice" and places is None
                                for item, places in zip(self._list, self._ordered, strict=True)], dtype=bool)
        for place, (item, places) in enumerate(zip(self._list, self._ordered, strict=True)):
            column = rows[:, place]
            if not categorical[place]:
                column = _share(item, column) if places is None else places[np.nan_to_num(column).astype(int)]
            found[:, place] = np.where(np.isnan(rows[:, place]), -1.0 if categorical[place] else 0.5, column)
        return Features(found, categorical)

    @cached_property
    def every(self) -> np.ndarray | None:
        """All points of a finite space that has `LISTED` of them at most, else None."""
        if not all(item.finite for item in self._list):
            return None
        found: list[dict[str, Any]] = []
        for point in walk(self.dimensions):
            if len(found) == LISTED:
                return None
            found.append(point)
        return self.rows(found)

    def drawn(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Points drawn evenly, float [count, d]."""
        return self.settled(self._drawn(count, rng))

    def at(self, shares: np.ndarray) -> np.ndarray:
        """Points at shares [n, d] of the dimensions, in [0, 1): of a choice each value has an equal part,
        and numbers to choose from stand in their order."""
        return self.settled(np.column_stack([
            _placed(item, column, order)
            for item, column, order in zip(self._list, shares.T, self._ordered, strict=True)]))

    def neighbors(self, rows: np.ndarray, width: np.ndarray | float, rng: np.random.Generator) -> np.ndarray:
        """A neighbor of each of n rows: about half of the ranges moved by `width` (in ranges;
        one number or [n]), about one choice drawn anew, at least one of all. What becomes active is drawn."""
        count, d = rows.shape
        fresh = self._drawn(count, rng)
        changed = rng.uniform(size=rows.shape) < np.array([1.0 / d if item.choice else 0.5
                                                           for item in self._list])
        changed[np.arange(count), rng.integers(d, size=count)] = True
        found = fresh.copy()
        for place, item in enumerate(self._list):
            if not item.choice:
                share = _share(item, rows[:, place]) + width * rng.standard_normal(count)
                found[:, place] = _ranged(item, np.clip(share, 0.0, 1.0))
        found = np.where(changed, found, rows)
        return self.settled(np.where(np.isnan(found), fresh, found))

    def fixed(self, rows: np.ndarray, part: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
        """The rows with the values of `part` in place of their own, and what becomes active drawn."""
        given = self.rows([part])[0]
        found = np.where(np.isnan(given), rows, given)
        return self.settled(np.where(np.isnan(found), self._drawn(len(rows), rng), found))

    def settled(self, rows: np.ndarray) -> np.ndarray:
        """The rows with NaN at what their other values make inactive."""
        for place, conditions in enumerate(self._when):
            for parent, codes in conditions:
                rows[~np.isin(rows[:, parent], codes), place] = np.nan
        return rows

    def _drawn(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return np.column_stack([_draw(item, count, rng) for item in self._list])


def _ordered(dimension: Dimension) -> np.ndarray | None:
    """Where each of the numbers to choose from stands in their order, in [0, 1]; None for
    other dimensions."""
    values = dimension.choice or ()
    if (len(values) < 2
            or any(isinstance(value, bool) or not isinstance(value, int | float) for value in values)):
        return None
    return np.argsort(np.argsort(np.array(values, dtype=float))) / (len(values) - 1)


def _ends(dimension: Dimension) -> tuple[float, float]:
    ends = (float(dimension.low), float(dimension.high))
    return (np.log(ends[0]), np.log(ends[1])) if dimension.kind == "log" else ends


def _share(dimension: Dimension, values: np.ndarray) -> np.ndarray:
    """Where values of a range stand in it."""
    low, high = _ends(dimension)
    return ((np.log(values) if dimension.kind == "log" else values) - low) / ((high - low) or 1.0)


def _ranged(dimension: Dimension, share: np.ndarray) -> np.ndarray:
    """Legal values of a range at shares of it."""
    low, high = _ends(dimension)
    values = low + share * (high - low)
    if dimension.kind == "int":
        step = dimension.step or 1
        return low + step * np.round((values - low) / step)
    return np.clip(np.exp(values) if dimension.kind == "log" else values, float(dimension.low),
                   float(dimension.high))


def _placed(dimension: Dimension, share: np.ndarray, ordered: np.ndarray | None) -> np.ndarray:
    """Legal values at shares of a dimension, in [0, 1); `ordered`: where each value of a choice stands."""
    if dimension.count is None:
        return _ranged(dimension, share)
    picked = np.minimum(np.floor(share * dimension.count), dimension.count - 1)
    if dimension.choice:
        return picked if ordered is None else np.argsort(ordered)[picked.astype(int)].astype(float)
    return float(dimension.low) + (dimension.step or 1) * picked


def _draw(dimension: Dimension, count: int, rng: np.random.Generator) -> np.ndarray:
    if dimension.count is not None:
        picked = rng.integers(dimension.count, size=count)
        return (picked.astype(float) if dimension.choice
                else float(dimension.low) + (dimension.step or 1) * picked)
    return _ranged(dimension, rng.uniform(size=count))
