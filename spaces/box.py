"""The corners between which hypervolume is told: numbers, or shares of what the base itself has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import StringConstraints

SHARE = r"^\s*[0-9]+(\.[0-9]+)?\s*base\s*$"
"""Such as `1.5 base`."""
OF_BASE = ("latency_ms", "size_bytes")
"""Metrics that the base has before any trial."""
Corner = float | Annotated[str, StringConstraints(pattern=SHARE)]


def number(corner: float | str) -> float:
    """1.5 for `1.5 base` and for 1.5."""
    return float(re.sub(r"\s*base\s*$", "", corner)) if isinstance(corner, str) else float(corner)


class Corners(Mapping[str, tuple[float, float]]):
    """Objective -> [best, worst]. Corners that are shares of the base's own are there from when that
    is told."""

    def __init__(self, given: Mapping[str, tuple[float | str, float | str]]):
        self.given = dict(given)
        self._base: dict[str, float] = {}

    def told(self, base: Mapping[str, float]) -> None:
        """What the base has, by metric."""
        self._base |= base

    def __getitem__(self, metric: str) -> tuple[float, float]:
        best, worst = self.given[metric]
        return self._number(metric, best), self._number(metric, worst)

    def _number(self, metric: str, corner: float | str) -> float:
        return number(corner) * (self._base[metric] if isinstance(corner, str) else 1.0)

    def __iter__(self) -> Iterator[str]:
        return (metric for metric, corners in self.given.items()
                if metric in self._base or not any(isinstance(corner, str) for corner in corners))

    def __len__(self) -> int:
        return sum(1 for _ in self)
