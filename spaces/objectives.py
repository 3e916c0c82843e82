"""What a search is after: objectives with a direction, and constraints such as `latency_ms <= 40`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Direction = Literal["minimize", "maximize"]
METRIC = r"[A-Za-z][A-Za-z0-9_]*"


@dataclass(frozen=True)
class Objective:
    """A metric and whether less or more of it is better."""

    metric: str
    direction: Direction


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric, in the metric's own unit."""

    metric: str
    op: Literal["<=", ">="]
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """From `METRIC <= NUMBER` or `METRIC >= NUMBER`. Raises `ValueError` saying what is legal."""
        match = re.fullmatch(rf"\s*({METRIC})\s*(<=|>=)\s*(\S+)\s*", text)
        try:
            bound = float(match[3]) if match else math.nan
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            raise ValueError(f"{text!r} is not METRIC <= NUMBER or METRIC >= NUMBER, such as latency_ms <= 40")
        return cls(match[1], match[2], bound)

    def violation(self, value: float) -> float:
        """How far `value` is beyond the bound, in the metric's unit; 0 or less where the constraint holds."""
        return value - self.bound if self.op == "<=" else self.bound - value

    def holds(self, value: float) -> bool:
        """Whether `value` keeps to the bound; a value that is not a number does not."""
        return self.violation(value) <= 0

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.bound:g}"
