"""The Pareto front of a run: which complete, feasible results no other result beats, and what that
front is worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from search.pareto.geometry import contributions, crowding, layers
from search.pareto.objectives import Constraint, Objective, feasible, finished, judged, matrix, vector
from search.pareto.reference_box import Box
from search.pareto.stability import Stability, interval, stability
from search.pareto.table import to_table

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Front:
    """`members` are the non-dominated rows, ordered by the first objective; `candidates` all rows
    that were eligible.

    Rows with equal objectives are all members: none of them beats another, and their configs differ.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    candidates: tuple[Row, ...]
    members: tuple[Row, ...]

    @classmethod
    def from_rows(cls, rows: Iterable[Row], objectives: Sequence[Objective],
                  constraints: Sequence[Constraint] = ()) -> Front:
        """The front of the rows whose state is `complete`, whose objectives are finite and whose
        constraints all hold.

        A trial counts once, by its last complete row.
        """
        candidates = [row for row in finished(rows, objectives) if feasible(row, constraints)]
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

    @property
    def stability(self) -> list[Stability | None]:
        """Whether each member holds its place when measured again: see
        `search.pareto.stability.stability`."""
        return stability(self.members, self.objectives, self.constraints)

    def hypervolume(self, box: Box) -> float:
        """Share of `box` that the members dominate. Only values in one and the same box can be compared."""
        return box.hypervolume(self.vectors)

    def contributions(self, box: Box) -> np.ndarray:
        """What the hypervolume would lose without each member, float [members]; 0 for one of
        two equal members."""
        return contributions(box.scaled(self.vectors), np.ones(len(self.objectives)))

    def attains(self, goal: Mapping[str, float]) -> bool:
        """Whether some member is at least as good as `goal` (metric -> value, own units) on every
        objective it names.

        Raises KeyError for a metric that is not an objective.
        """
        named = [objective for objective in self.objectives if objective.metric in goal]
        if unknown := set(goal) - {objective.metric for objective in named}:
            raise KeyError(f"no objective: {', '.join(sorted(unknown))}")
        return bool((matrix(self.members, named) <= vector(goal, named)).all(axis=1).any())

    def knee(self) -> Row | None:
        """The member that gives up least: smallest sum of objectives after each is scaled to
        0..1 over the front.

        With two objectives it is the member farthest below the line through the two ends (Das 1999).
        None when empty.
        """
        if not self.members:
            return None
        return self.members[int(np.argmin(_scaled(self.vectors).sum(axis=1)))]

    def best(self, metric: str, constraints: Sequence[Constraint] = ()) -> Row | None:
        """The candidate that is best on one objective among those that satisfy `constraints` too;
        None when none does.

        All candidates are looked at, not only members: a bound on something that is not an objective
        can rule out every member that dominates a given row. Ties go to the row that is not dominated,
        then to the lower trial.
        """
        wanted = [objective for objective in self.objectives if objective.metric == metric]
        if not wanted:
            raise KeyError(f"{metric} is not an objective: "
                           f"{[objective.metric for objective in self.objectives]}")
        rows = [row for row in self.candidates if feasible(row, constraints)]
        if not rows:
            return None
        rank = layers(matrix(rows, self.objectives))
        order = np.lexsort((rank, matrix(rows, wanted)[:, 0]))
        return rows[int(order[0])]

    def only(self, row: Row | None) -> Front:
        """This front with `row` as its one member, or with none."""
        return replace(self, members=() if row is None else (row,))

    def summary(self, box: Box | None = None) -> dict[str, Any]:
        """The front as one JSON-able mapping; `hypervolume` is None without a box."""
        knee = self.knee()
        return {
            "objectives": [{"metric": item.metric, "direction": item.direction} for item in self.objectives],
            "constraints": [{"metric": item.metric, "op": item.op, "bound": item.bound}
                            for item in self.constraints],
            "box": box.corners() if box else None,
            "hypervolume": self.hypervolume(box) if box else None,
            "candidates": len(self.candidates),
            "knee": knee.get("trial") if knee else None,
            "members": self.member_rows(),
        }

    def member_rows(self) -> list[dict[str, Any]]:
        """The members' rows, those that were measured again with `place` and each objective's
        `METRIC_low`, `_high`."""
        rows = []
        for row, place in zip(self.members, self.stability, strict=True):
            found = {item.metric: interval(row, item.metric) for item in self.objectives}
            ends = {f"{metric}_{end}": getattr(one, end) for metric, one in found.items() if one
                    for end in ("low", "high")}
            rows.append({**row, **({"place": place} if place else {}), **ends})
        return rows

    def to_arrow(self, columns: Mapping[str, str] | None = None) -> pa.Table:
        """One row per member (`member_rows`), place, objectives and constrained metrics first; `columns`: see
        `search.pareto.table.column_types`."""
        rows = self.member_rows()
        first = [name for metric in judged(self.objectives, self.constraints)
                 for name in (metric, *(f"{metric}_{end}" for end in ("low", "high") if rows
                                        and any(f"{metric}_{end}" in row for row in rows)))]
        placed = ["place"] if any("place" in row for row in rows) else []
        return to_table(rows, columns, placed + first)

    def to_pandas(self) -> pd.DataFrame:
        """`to_arrow` as a data frame."""
        return self.to_arrow().to_pandas()

    def to_csv(self, path: Path, columns: Mapping[str, str] | None = None) -> None:
        """Write `to_arrow` as CSV, strings quoted where needed."""
        options = pyarrow.csv.WriteOptions(quoting_style="needed")
        pyarrow.csv.write_csv(self.to_arrow(columns), path, options)


def attainment(fronts: Sequence[Front], goals: Sequence[Mapping[str, float]]) -> np.ndarray:
    """The empirical attainment function (da Fonseca et al. 2001): the share of `fronts` that attain
    each goal, float [n].

    The fronts are repeats of one search, such as runs of several seeds; a goal is metric ->
    value in its own unit.
    """
    return np.mean([[front.attains(goal) for goal in goals] for front in fronts], axis=0)


def _scaled(vectors: np.ndarray) -> np.ndarray:
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    return (vectors - low) / np.where(high > low, high - low, 1.0)
