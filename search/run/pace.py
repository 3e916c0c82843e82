"""How long it will take to make what trials share, told from what was measured of it so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

MEASURED_S = 3.0
"""Seconds between two words on progress from which a pace is told: before, it would be mostly start-up."""


class Pace:
    """The time that is left of each of several things, by its progress since its first word."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self._first: dict[str, tuple[float, float]] = {}

    def left(self, name: str, progress: float) -> float | None:
        """Seconds that `name` still takes, being that far (0 to 1); None before there is a pace. What it went
        on from (a checkpoint), and what it took to begin, are not counted as pace."""
        now = self.clock()
        since, start = self._first.setdefault(name, (now, progress))
        if now - since < MEASURED_S or progress <= start:
            return None
        return max(0.0, (1 - progress) * (now - since) / (progress - start))


def spoken(seconds: float) -> str:
    """`40 s`, `17 min`, `2.5 h`."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
