"""The Pareto front of a run: which complete, feasible results no other result beats, and what that
front is worth."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.pareto.objectives import dominates, feasible, finished, judged, matrix, minimized, vector
from search.pareto.stability import Stability, ends, figure, source, stability, trusted
from spaces.objectives import Constraint, Objective

if TYPE_CHECKING:  # slow to import, so only where they are used
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from search.pareto.reference_box import Box

Row = Mapping[str, Any]
FEW = 100
"""Results whose front is found sooner without numpy than that is imported."""


@dataclass(frozen=True)
class Front:
    """`members` are the non-dominated rows, ordered by the first objective; `candidates` all rows
    that were eligible, both by the one measurement of each that the search went by.

    Rows with equal objectives are all members: none of them beats another, and their configs differ.
    `best`, `knee` and `within` go by the figures of `search.pareto.stability.figure`, fresh where there are
    any, and pass over members that lost their place. `left_out`: what `within` left out though its own
    figures keep to the bounds, each with the bound that its fresh figure breaks, or None for one that was
    beaten.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    candidates: tuple[Row, ...]
    members: tuple[Row, ...]
    left_out: tuple[tuple[Row, Constraint | None], ...] = ()

    @classmethod
    def from_rows(cls, rows: Iterable[Row], objectives: Sequence[Objective],
                  constraints: Sequence[Constraint] = ()) -> Front:
        """The front of the rows whose state is `complete`, whose objectives are finite and whose
        constraints all hold.

        A trial counts once, by its last complete row.
        """
        candidates = [row for row in finished(rows, objectives) if feasible(row, constraints)]
        vectors = [minimized(row, objectives) for row in candidates]
        places = _nondominated(vectors)
        places.sort(key=lambda place: (vectors[place], candidates[place].get("trial", -1)))
        members = [candidates[place] for place in places]
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
        from search.pareto.geometry import crowding

        return crowding(self.vectors)

    @cached_property
    def stability(self) -> list[Stability | None]:
        """Whether each member holds its place when measured again: see
        `search.pareto.stability.stability`."""
        return stability(self.members, self.objectives, self.constraints)

    def hypervolume(self, box: Box) -> float:
        """Share of `box` that the members dominate by the one measurement of each that the search went by.
        Only values in one and the same box can be compared."""
        return box.hypervolume(self.vectors)

    def trusted_hypervolume(self, box: Box) -> float:
        """Share of `box` that the members to choose from (`standing`) dominate by the figures to go by."""
        return box.hypervolume(self.figures)

    def contributions(self, box: Box) -> np.ndarray:
        """What the hypervolume would lose without each member, float [members]; 0 for one of
        two equal members."""
        import numpy as np

        from search.pareto.geometry import contributions

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

    @cached_property
    def standing(self) -> list[Row]:
        """The members to choose from: those that did not lose their place; where some of these were measured
        again, only they."""
        kept = [row for row, place in zip(self.members, self.stability, strict=True) if place != "lost"]
        names = [item.metric for item in self.objectives]
        return [row for row in kept if source(row, names) != "own"] or kept

    @cached_property
    def figures(self) -> np.ndarray:
        """Of `standing` the figures to go by in minimization form, float [n, objectives]."""
        metrics = [item.metric for item in self.objectives]
        return matrix(({metric: figure(row, metric).mean for metric in metrics} for row in self.standing),
                      self.objectives)

    def trusted(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Rows with objectives and constrained metrics at the figures to go by."""
        return [trusted(row, judged(self.objectives, self.constraints)) for row in rows]

    def knee(self) -> Row | None:
        """The member that gives up least: smallest sum of objectives after each is scaled to
        0..1 over the members to choose from (`standing`), by the figures to go by.

        With two objectives it is the member farthest below the line through the two ends (Das 1999).
        None when there is none.
        """
        rows = self.standing
        if not rows:
            return None
        return rows[int(_scaled(self.figures).sum(axis=1).argmin())]

    def best(self, metric: str, constraints: Sequence[Constraint] = ()) -> Row | None:
        """The member to choose from (`standing`) that is best on one objective by the figures to go by, of
        the front `within` constraints; None when there is none. Ties go to the first on the front.

        Raises KeyError for a metric that is not an objective.
        """
        wanted = [place for place, objective in enumerate(self.objectives) if objective.metric == metric]
        if not wanted:
            raise KeyError(f"{metric} is not an objective: "
                           f"{[objective.metric for objective in self.objectives]}")
        front = self.within(constraints) if constraints else self
        asked = [self.objectives[wanted[0]]]
        return min(front.standing, key=lambda row: minimized(trusted(row, [metric]), asked), default=None)

    def within(self, bounds: Sequence[Constraint]) -> Front:
        """The front of the candidates that keep to `bounds`, and to the constraints that there are, by the
        figures to go by; members that lose their place among these are left out as well.

        All candidates are looked at, not only members: a bound can rule out every member that dominates
        a given row. Such a row was never measured again, so its own figures count.
        """
        limits = (*self.constraints, *bounds)
        kept, left = [], []
        for row in self.candidates:
            fresh = {bound.metric: figure(row, bound.metric).mean for bound in limits}
            broken = next((bound for bound in limits if not feasible(fresh, [bound])), None)
            if broken is None:
                kept.append(row)
            elif feasible(row, limits):
                left.append((row, broken))
        found = replace(Front.from_rows(kept, self.objectives, ()), constraints=limits)
        marks = found.stability
        members = tuple(row for row, mark in zip(found, marks, strict=True) if mark != "lost")
        beaten = [(row, None) for row, mark in zip(found, marks, strict=True) if mark == "lost"]
        return replace(found, members=members, left_out=(*left, *beaten))

    def only(self, row: Row | None) -> Front:
        """This front with `row` as its one member, or with none."""
        return replace(self, members=() if row is None else (row,))

    def summary(self, box: Box | None = None) -> dict[str, Any]:
        """The front as one JSON-able mapping; `hypervolume` (as the search measured it) and
        `trusted_hypervolume` are None without a box."""
        knee = self.knee()
        return {
            "objectives": [{"metric": item.metric, "direction": item.direction} for item in self.objectives],
            "constraints": [{"metric": item.metric, "op": item.op, "bound": item.bound}
                            for item in self.constraints],
            "box": box.corners() if box else None,
            "hypervolume": self.hypervolume(box) if box else None,
            "trusted_hypervolume": self.trusted_hypervolume(box) if box else None,
            "candidates": len(self.candidates),
            "knee": knee.get("trial") if knee else None,
            "members": self.member_rows(),
        }

    def member_rows(self) -> list[dict[str, Any]]:
        """The members' rows with `figures`, what to go by (`own`, `again` or `seeds`), and the intervals of
        objectives and constrained metrics (`search.pareto.stability.ends`); `place` for those that were
        measured again."""
        rows = []
        for row, place in zip(self.members, self.stability, strict=True):
            metrics = judged(self.objectives, self.constraints)
            found = {name: value for metric in metrics for name, value in ends(row, metric).items()}
            marks = {"figures": source(row, metrics), **({"place": place} if place else {})}
            rows.append({**row, **marks, **found})
        return rows

    def to_arrow(self, columns: Mapping[str, str] | None = None) -> pa.Table:
        """One row per member (`member_rows`), place, objectives and constrained metrics first; `columns`: see
        `search.pareto.table.column_types`."""
        from search.pareto.table import to_table

        rows = self.member_rows()
        known = {name for row in rows for name in row}
        first = [name for metric in judged(self.objectives, self.constraints)
                 for name in figure_columns(metric) if name == metric or name in known]
        placed = [name for name in ("place", "figures") if name in known]
        return to_table(rows, columns, placed + first)

    def to_pandas(self) -> pd.DataFrame:
        """`to_arrow` as a data frame."""
        return self.to_arrow().to_pandas()

    def to_csv(self, path: Path, columns: Mapping[str, str] | None = None) -> None:
        """Write `to_arrow` as CSV, strings quoted where needed."""
        import pyarrow.csv

        options = pyarrow.csv.WriteOptions(quoting_style="needed")
        pyarrow.csv.write_csv(self.to_arrow(columns), path, options)


def figure_columns(metric: str) -> list[str]:
    """The columns that tell a metric of a member, where they are there, its own figure first."""
    return [f"{metric}{of}{end}" for of in ("", "_again", "_seeds") for end in ("", "_low", "_high")]


def attainment(fronts: Sequence[Front], goals: Sequence[Mapping[str, float]]) -> np.ndarray:
    """The empirical attainment function (da Fonseca et al. 2001): the share of `fronts` that attain
    each goal, float [n].

    The fronts are repeats of one search, such as runs of several seeds; a goal is metric ->
    value in its own unit.
    """
    import numpy as np

    return np.mean([[front.attains(goal) for goal in goals] for front in fronts], axis=0)


def _nondominated(vectors: Sequence[tuple[float, ...]]) -> list[int]:
    """Which of these, all finite, no other dominates."""
    if not vectors or len(vectors) <= FEW and "numpy" not in sys.modules:
        return _few_nondominated(vectors)
    import numpy as np

    from search.pareto.geometry import nondominated

    kept: list[int] = np.flatnonzero(nondominated(np.array(vectors))).tolist()
    return kept


def _few_nondominated(vectors: Sequence[tuple[float, ...]]) -> list[int]:
    return [place for place, one in enumerate(vectors)
            if not any(dominates(other, one) for other in vectors)]


def _scaled(vectors: np.ndarray) -> np.ndarray:
    import numpy as np

    low, high = vectors.min(axis=0), vectors.max(axis=0)
    return (vectors - low) / np.where(high > low, high - low, 1.0)
