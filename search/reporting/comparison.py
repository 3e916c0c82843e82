"""Runs beside each other: one box for all fronts, the volume of each with its interval, who beats whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.pareto.front import Front
from search.pareto.geometry import layers
from search.pareto.process_bounds import mixed_bounds, processes
from search.pareto.reference_box import Box
from search.pareto.stability import NORMAL, figure
from search.records.run_folder import RunFolder
from search.reporting.rows import ended_rows, latest_rows
from spaces.errors import UserError
from spaces.schema import Space

DRAWS = 200
"""Draws of the measurement noise behind an interval."""


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison."""

    folder: RunFolder
    space: Space
    rows: Sequence[Mapping[str, Any]]
    front: Front
    seconds: float

    @classmethod
    def of(cls, run: Path) -> ComparedRun:
        """Raises `UserError` when the folder is no run."""
        folder = RunFolder.open(run)
        space = Space.from_yaml(*folder.space_text())
        rows = folder.row_views()  # of which those that are looked into are parsed
        latest = latest_rows(rows)
        front = Front.from_rows(latest, space.objectives, space.constraints)
        return cls(folder, space, latest, front,
                   sum(float(row.get("seconds") or 0) for row in ended_rows(rows)))

    def metric_sources(self) -> set[str]:
        """What scored: the teachers and oracles that the rows name."""
        return {f"{name} {row[name]}" for row in self.rows
                for name in ("perplexity_teacher", "controllability_oracle") if row.get(name)}


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """The comparison as a JSON-able mapping: "box" (metric -> [best, worst]), "runs" (one entry each),
    "changes", "warnings".

    Everything goes by the figures to go by (`search.pareto.stability.figure`) of the members to choose from
    (`Front.standing`). `share`: hypervolume as a share of one box around all fronts, with the central 95 % of
    `DRAWS` draws of the noise of those figures (their intervals, normal, seed 0): how well this front is
    known, not how well another search of the space would do. `joint`: members that stay on the front of all
    runs together. The box goes from the best of all fronts to a tenth of their range beyond the worst. Raises
    `UserError` when the runs have other objectives, or none has a front.
    """
    sides = [ComparedRun.of(run) for run in runs]
    first = sides[0].space
    for side in sides[1:]:
        if side.space.objectives != first.objectives:
            raise UserError(f"{side.folder.path.name} has other objectives than {sides[0].folder.path.name}: "
                            f"{_objectives_text(side.space)}; {_objectives_text(first)}")
    vectors = [side.front.figures for side in sides]
    if not sum(map(len, vectors)):
        raise UserError("none of the runs has a front yet")
    points = np.vstack(vectors)
    ideal, worst = points.min(axis=0), points.max(axis=0)
    corner = worst + 0.1 * np.where(worst > ideal, worst - ideal, np.maximum(np.abs(worst), 1.0))
    box = Box(tuple(first.objectives), tuple(ideal.tolist()), tuple(corner.tolist()))
    owner = np.repeat(np.arange(len(sides)), [len(own) for own in vectors])
    beaten = layers(points) > 0
    entries = []
    for place, side in enumerate(sides):
        volume, low, high = _volume(side, box)
        best = {item.metric: side.front.best(item.metric) for item in first.objectives}
        entries.append({
            "run": str(side.folder.path), "state": side.folder.state, "trials": len(side.rows),
            "front": len(side.front), "trial_seconds": side.seconds, "share": volume, "low": low,
            "high": high, "joint": int((~beaten & (owner == place)).sum()),
            "best": {metric: figure(row, metric).mean if row is not None else None
                     for metric, row in best.items()}})
    return {"box": box.corners(), "runs": entries, "warnings": warnings(sides),
            "changes": [{"run": side.folder.path.name, "lines": side.space.difference(first)}
                        for side in sides[1:]]}


def warnings(sides: Sequence[ComparedRun]) -> list[str]:
    """Why values of the runs may not be comparable."""
    sources = [side.metric_sources() for side in sides]
    found = []
    if any(own != sources[0] for own in sources[1:] if own and sources[0]):
        found.append("the runs were scored by different teachers or oracles: "
                     "those metrics cannot be compared")
    mixed = mixed_bounds([item.metric for side in sides for item in side.space.objectives],
                         processes(row for side in sides for row in side.rows))
    if mixed:
        found.append(mixed)
    machines = {str(row["device"]) for side in sides for row in side.rows if row.get("device")}
    if len(machines) > 1 and any(item.metric.endswith("_ms") for item in sides[0].space.objectives):
        found.append(f"latencies were taken on different devices ({', '.join(sorted(machines))})")
    return found


def _volume(side: ComparedRun, box: Box) -> tuple[float, float, float]:
    """Share of the box that the front dominates, and its interval under measurement noise."""
    noise, vectors = np.random.default_rng(0), side.front.figures
    if not len(vectors):
        return 0.0, 0.0, 0.0
    spread = np.array([[figure(row, item.metric).half / NORMAL for item in side.space.objectives]
                       for row in side.front.standing])
    count = DRAWS if spread.any() else 0
    volume = box.hypervolume(vectors)
    if not count:
        return volume, volume, volume
    draws = box.hypervolumes(vectors + spread * noise.standard_normal((count, *vectors.shape)))
    low, high = np.quantile(draws, [0.025, 0.975])
    return volume, float(low), float(high)


def _objectives_text(space: Space) -> str:
    return ", ".join(f"{item.direction} {item.metric}" for item in space.objectives)
