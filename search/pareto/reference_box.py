"""The box in which hypervolume is told: two corners in the metrics' own units, fixed once and recorded
with the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.pareto.objectives import finished, matrix, minimized
from spaces.errors import UserError
from spaces.objectives import Objective

if TYPE_CHECKING:  # to read a box takes none
    import numpy as np

Corners = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Box:
    """`best` and `worst` corner in minimization form, one number per objective.

    Hypervolume is told as a share of the box, so it has no unit and compares within a run, across its
    sessions, and between runs that were given the same box. What lies beyond the worst corner on any axis
    adds nothing; what lies beyond the best corner adds more than the box holds, so a share can exceed 1.
    """

    objectives: tuple[Objective, ...]
    best: tuple[float, ...]
    worst: tuple[float, ...]

    @classmethod
    def of(cls, corners: Corners, objectives: Sequence[Objective]) -> Box:
        """From metric -> [best, worst] in the metrics' own units. Raises `UserError` for an objective
        that is left out, or where best is not better than worst."""
        for item in objectives:
            if item.metric not in corners:
                raise UserError(f"box: no corners of {item.metric}")
        best, worst = (minimized({item.metric: corners[item.metric][end] for item in objectives}, objectives)
                       for end in (0, 1))
        for item, low, high in zip(objectives, best, worst, strict=True):
            if not low < high:
                raise UserError(f"{item.metric}: {list(corners[item.metric])} is not [best, "
                                 f"worst] of a metric to {item.direction}")
        return cls(tuple(objectives), best, worst)

    def corners(self) -> dict[str, list[float]]:
        """Metric -> [best, worst] in the metrics' own units: what `of` takes."""
        return {item.metric: [-low, -high] if item.direction == "maximize" else [low, high]
                for item, low, high in zip(self.objectives, self.best, self.worst, strict=True)}

    def scaled(self, vectors: np.ndarray) -> np.ndarray:
        """[n, k] in minimization form -> [n, k] with 0 at the best corner and 1 at the worst."""
        import numpy as np

        low, high = np.array(self.best), np.array(self.worst)
        return (np.asarray(vectors, dtype=float).reshape(-1, len(low)) - low) / (high - low)

    def hypervolume(self, vectors: np.ndarray) -> float:
        """Share of the box that the rows of [n, k] (minimization form) dominate."""
        import numpy as np

        from search.pareto.geometry import hypervolume

        return hypervolume(self.scaled(vectors), np.ones(len(self.worst)))

    def hypervolumes(self, sets: np.ndarray) -> np.ndarray:
        """`hypervolume` of each of d sets [d, n, k], float [d]."""
        import numpy as np

        from search.pareto.geometry import hypervolumes

        sets = np.asarray(sets, dtype=float)
        return hypervolumes(self.scaled(sets).reshape(sets.shape), np.ones(len(self.worst)))


def choose_box(rows: Iterable[Mapping[str, Any]], objectives: Sequence[Objective], first: int = 8,
               margin: float = 0.1, given: Corners | None = None) -> Box | None:
    """A box to be recorded once and never moved; None until there are `first` complete results.

    It holds the first `first` of them with `margin` to spare at both corners: a share of the size of
    the worst value or of the spread, whichever is larger. A metric that was never negative gets no
    negative corner. Corners that are `given` (metric -> [best, worst]) stand as they are; when all are,
    no result is waited for.
    """
    given = dict(given or {})
    if all(item.metric in given for item in objectives):
        return Box.of(given, objectives)
    seen = finished(rows, objectives)[:first]
    if len(seen) < first:
        return None
    import numpy as np

    corners: dict[str, Sequence[float]] = {}
    for item, column in zip(objectives, matrix(seen, objectives).T, strict=True):
        sign = -1.0 if item.direction == "maximize" else 1.0
        size = max(abs(column.max()), np.ptp(column)) or 1.0
        low, high = sign * (column.min() - margin * size), sign * (column.max() + margin * size)
        if (sign * column >= 0).all():
            low = max(0.0, low)
            high = max(0.0, high) if sign * column.max() > 0 else high
        corners[item.metric] = given.get(item.metric, (float(low), float(high)))
    return Box.of(corners, objectives)
