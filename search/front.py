"""The Pareto front of a run: which complete, feasible results no other result beats, and what that front is worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from search.front_geometry import crowding, hypervolume, layers
from search.front_table import to_table
from search.objectives import Constraint, Objective, feasible, matrix, measured

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Front:
    """`members` are the non-dominated rows, ordered by the first objective; `candidates` all rows that were eligible.

    Rows with equal objectives are all members: none of them beats another, and their configs differ.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    candidates: tuple[Row, ...]
    members: tuple[Row, ...]

    @classmethod
    def from_rows(cls, rows: Iterable[Row], objectives: Sequence[Objective],
                  constraints: Sequence[Constraint] = ()) -> Front:
        """The front of the rows whose state is `complete`, whose objectives are finite and whose constraints all hold.

        A trial counts once, by its last complete row.
        """
        candidates = [row for row in _complete(rows, objectives) if feasible(row, constraints)]
        rank = layers(matrix(candidates, objectives))
        members = [row for row, layer in zip(candidates, rank, strict=True) if layer == 0]
        members.sort(key=lambda row: (tuple(matrix([row], objectives)[0]), row.get("trial", -1)))
        return cls(tuple(objectives), tuple(constraints), tuple(candidates), tuple(members))

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.members)

    @property
    def vectors(self) -> np.ndarray:
        """Objectives of the members in minimization form, float [members, objectives]."""
        return matrix(self.members, self.objectives)

    @property
    def crowding(self) -> np.ndarray:
        """Crowding distance of each member, float [members]; large = alone on its stretch of the front."""
        return crowding(self.vectors)

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """Volume that the members dominate up to `reference` (metric -> value, in the metric's own unit).

        Only values taken against one and the same reference can be compared. A member beyond it on any objective adds
        nothing. Raises KeyError when the reference lacks an objective.
        """
        point = {objective.metric: float(reference[objective.metric]) for objective in self.objectives}
        return hypervolume(self.vectors, matrix([point], self.objectives)[0])

    def knee(self) -> Row | None:
        """The member that gives up least: smallest sum of objectives after each is scaled to 0..1 over the front.

        With two objectives it is the member farthest below the line through the two ends (Das 1999). None when empty.
        """
        if not self.members:
            return None
        return self.members[int(np.argmin(_scaled(self.vectors).sum(axis=1)))]

    def best(self, metric: str, constraints: Sequence[Constraint] = ()) -> Row | None:
        """The candidate that is best on one objective among those that satisfy `constraints` too; None when none does.

        All candidates are looked at, not only members: a bound on something that is not an objective can rule out every
        member that dominates a given row. Ties go to the row that is not dominated, then to the lower trial.
        """
        wanted = [objective for objective in self.objectives if objective.metric == metric]
        if not wanted:
            raise KeyError(f"{metric} is not an objective: {[objective.metric for objective in self.objectives]}")
        rows = [row for row in self.candidates if feasible(row, constraints)]
        if not rows:
            return None
        rank = layers(matrix(rows, self.objectives))
        order = np.lexsort((rank, matrix(rows, wanted)[:, 0]))
        return rows[int(order[0])]

    def summary(self, reference: Mapping[str, float] | None = None) -> dict[str, Any]:
        """The front as one JSON-able mapping; `hypervolume` is None without a reference."""
        knee = self.knee()
        return {
            "objectives": [{"metric": item.metric, "direction": item.direction} for item in self.objectives],
            "constraints": [{"metric": item.metric, "op": item.op, "bound": item.bound} for item in self.constraints],
            "reference": dict(reference) if reference else None,
            "hypervolume": self.hypervolume(reference) if reference else None,
            "candidates": len(self.candidates),
            "knee": knee.get("trial") if knee else None,
            "members": [dict(row) for row in self.members],
        }

    def to_arrow(self, columns: Mapping[str, str] | None = None) -> pa.Table:
        """One row per member, objectives and constrained metrics first; `columns`: see `front_table.column_types`."""
        first = [item.metric for item in (*self.objectives, *self.constraints)]
        return to_table(self.members, columns, first)

    def to_pandas(self) -> pd.DataFrame:
        """`to_arrow` as a data frame."""
        return self.to_arrow().to_pandas()

    def to_csv(self, path: Path, columns: Mapping[str, str] | None = None) -> None:
        """Write `to_arrow` as CSV, strings quoted where needed."""
        options = pyarrow.csv.WriteOptions(quoting_style="needed")
        pyarrow.csv.write_csv(self.to_arrow(columns), path, options)


def choose_reference(rows: Iterable[Row], objectives: Sequence[Objective], first: int = 8,
                     margin: float = 0.1) -> dict[str, float] | None:
    """A hypervolume reference, in the metrics' own units, to be recorded once and never moved.

    It lies `margin` beyond the worst of the first `first` complete results, on each objective; the margin is a share of
    that worst value's size or of the spread seen, whichever is larger. None until there are `first` such results.
    """
    seen = _complete(rows, objectives)[:first]
    if len(seen) < first:
        return None
    points = matrix(seen, objectives)
    worst = points.max(axis=0)
    size = np.maximum(np.abs(worst), worst - points.min(axis=0))
    beyond = worst + margin * np.where(size > 0, size, 1.0)
    return {objective.metric: float(-value if objective.direction == "maximize" else value)
            for objective, value in zip(objectives, beyond, strict=True)}


def _complete(rows: Iterable[Row], objectives: Sequence[Objective]) -> list[Row]:
    """Rows that are complete with finite objectives, one per trial, in the order in which trials first completed."""
    latest: dict[Any, Row] = {}
    for index, row in enumerate(rows):
        if row.get("state") == "complete" and all(np.isfinite(measured(row, item.metric)) for item in objectives):
            latest[row.get("trial", f"row {index}")] = row
    return list(latest.values())


def _scaled(vectors: np.ndarray) -> np.ndarray:
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    return (vectors - low) / np.where(high > low, high - low, 1.0)
