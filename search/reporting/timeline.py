"""What a run had found by when, and what it had cost: hypervolume against time, device-hours and trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.pareto.box_decomposition import growth
from search.pareto.geometry import hypervolume
from search.pareto.objectives import feasible, matrix
from search.pareto.reference_box import Box
from search.records.events import RecordedEvent
from search.records.follow import ENDED
from search.records.spans import WorkedSeconds
from spaces.objectives import Constraint, Objective

Row = Mapping[str, Any]
EXACT = {4: 2000, 5: 1000, 6: 250}
"""Improvements up to which the volume is computed exactly, by dimensions: a second's work at most."""
EXACT_ABOVE = 60
"""The same in more dimensions."""
DRAWS = 20_000
"""Points of the estimate above that; its standard error is below 0.4 % of the space between the best
values found and the box's worst corner."""


def working_seconds(events: Sequence[RecordedEvent]) -> tuple[dict[int, float], float]:
    """Trial -> the seconds that the run had worked when it first ended, and those of the whole run, pauses
    between sessions left out (`search.records.spans`)."""
    worked = WorkedSeconds()
    ends: dict[int, float] = {}
    for event in events:
        seconds = worked.add(event)
        if event["event"] == "row" and event["state"] in ENDED:
            ends.setdefault(event["trial"], seconds)
    return ends, worked.total


def progress(ended: Sequence[Row], objectives: Sequence[Objective], constraints: Sequence[Constraint],
             box: Box | None, worked: Mapping[int, float], devices: float) -> dict[str, Any]:
    """The run as curves over its ended trials: {"trials", "seconds", "device_hours", "hypervolume", "exact"}.

    `ended`: the first row of each trial that ended, in order; `worked`: see `working_seconds`; `devices` that
    one trial holds. `hypervolume`
    is the share of the run's box, empty without one. A device-hour is one hour of one device, from a trial's
    start on its workers to its end.
    """
    seconds = [worked[row["trial"]] for row in ended]
    hours = np.cumsum([float(row.get("seconds") or 0.0) for row in ended]) * devices / 3600
    volume, exact = volumes(ended, objectives, constraints, box) if box else ([], True)
    return {"trials": list(range(1, len(ended) + 1)), "seconds": seconds, "device_hours": hours.tolist(),
            "hypervolume": volume, "exact": exact}


def volumes(ended: Sequence[Row], objectives: Sequence[Objective], constraints: Sequence[Constraint],
            box: Box) -> tuple[list[float], bool]:
    """Hypervolume after each ended trial, and whether it is exact.

    In up to three dimensions, and for as many improvements as `EXACT` says, it is exact; above, a Monte Carlo
    estimate whose points are the same at every step (seed 0), so that the curve never falls.
    """
    counts = [row.get("state") == "complete" and feasible(row, constraints) for row in ended]
    points = box.scaled(matrix(ended, objectives))
    usable = np.array(counts, dtype=bool) & np.isfinite(points).all(axis=1) & (points < 1).all(axis=1)
    better = _improvements(points, usable)
    if not better:
        return [0.0] * len(ended), True
    exact = len(objectives) <= 3 or len(better) <= EXACT.get(len(objectives), EXACT_ABOVE)
    sizes = (_exact if exact else _estimated)(points, better)
    curve, now = [], 0.0
    steps = dict(zip(better, sizes, strict=True))
    for index in range(len(ended)):
        now = steps.get(index, now)
        curve.append(now)
    return curve, exact


def _improvements(points: np.ndarray, usable: np.ndarray) -> list[int]:
    """Places of the points that no earlier one weakly dominates."""
    front = np.empty((0, points.shape[1]))
    found = []
    for index in np.flatnonzero(usable):
        point = points[index]
        if (front <= point).all(axis=1).any():
            continue
        front = np.vstack([front[~(front >= point).all(axis=1)], point])
        found.append(int(index))
    return found


def _exact(points: np.ndarray, better: Sequence[int]) -> list[float]:
    reference = np.ones(points.shape[1])
    if len(reference) > 3:
        return growth(points[better], reference).tolist()
    return [hypervolume(points[better[:count + 1]], reference) for count in range(len(better))]


def _estimated(points: np.ndarray, better: Sequence[int]) -> list[float]:
    ideal = points[better].min(axis=0)
    draws = ideal + (1 - ideal) * np.random.default_rng(0).random((DRAWS, points.shape[1]))
    size, sizes = math.prod(1 - ideal), []
    for index in better:
        draws = draws[~(draws >= points[index]).all(axis=1)]
        sizes.append(float(size * (1 - len(draws) / DRAWS)))
    return sizes
