"""The front of a run while it grows: a result costs one comparison with the members, not with every
result so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from search.pareto.front import Front
from search.pareto.geometry import dominators
from search.pareto.objectives import feasible, finished, measured, vector
from search.pareto.reference_box import Box
from spaces.objectives import Constraint, Objective

Row = Mapping[str, Any]


class Incumbents:
    """Complete, feasible results and who among them is on the front; equal to `Front.from_rows`
    at every moment."""

    def __init__(self, objectives: Sequence[Objective], constraints: Sequence[Constraint],
                 rows: Iterable[Row] = ()):
        self.objectives, self.constraints = tuple(objectives), tuple(constraints)
        self._volume: tuple[Box, float] | None = None
        self._rebuild(rows)

    def _rebuild(self, rows: Iterable[Row]) -> None:
        self.rows: dict[Any, Row] = {}
        self.candidates: dict[Any, Row] = {}
        self._members: list[Any] = []
        self._vectors = np.empty((0, len(self.objectives)))
        self.best: dict[str, float] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> bool:
        """Take in a row; rows that are not complete results are passed over. Returns whether
        the front changed.

        A second complete row of a trial replaces the first; if it measured the same (and only says
        more), places stay.
        """
        if not finished([row], self.objectives):
            return False
        trial = row["trial"]
        if trial in self.rows:
            if self._same(row, self.rows[trial]):
                for known in (self.rows, self.candidates):
                    if trial in known:
                        known[trial] = row
                return False
            before = self.members
            self._rebuild([*({**self.rows, trial: row}).values()])
            self._volume = None
            return before != self.members
        self.rows[trial] = row
        if not feasible(row, self.constraints):
            return False
        self.candidates[trial] = row
        for item in self.objectives:
            value = measured(row, item.metric)
            better = min if item.direction == "minimize" else max
            self.best[item.metric] = better(value, self.best.get(item.metric, value))
        new = vector(row, self.objectives)
        if dominators(self._vectors, new).any():
            return False
        kept = ~dominators(-self._vectors, -new)  # the other way round
        self._members = [*(member for member, stays in zip(self._members, kept, strict=True) if stays), trial]
        self._vectors = np.vstack([self._vectors[kept], new])
        self._volume = None
        return True

    def _same(self, row: Row, other: Row) -> bool:
        return (np.array_equal(vector(row, self.objectives), vector(other, self.objectives))
                and feasible(row, self.constraints) == feasible(other, self.constraints))

    @property
    def members(self) -> list[Any]:
        """Trials on the front, in the order of `front`."""
        order = sorted(range(len(self._members)),
                       key=lambda index: (tuple(self._vectors[index]), self._members[index]))
        return [self._members[index] for index in order]

    @property
    def front(self) -> Front:
        """The front as an object of its own."""
        members = tuple(self.candidates[trial] for trial in self.members)
        return Front(self.objectives, self.constraints, tuple(self.candidates.values()), members)

    def hypervolume(self, box: Box) -> float:
        """Share of the box that the front dominates; computed when the front has changed."""
        if self._volume is None or self._volume[0] is not box:
            self._volume = box, box.hypervolume(self._vectors)
        return self._volume[1]
