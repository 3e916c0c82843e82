"""What a search is after: objectives with a direction, and constraints such as `latency_ms <= 40`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Direction = Literal["minimize", "maximize"]
METRIC = r"[A-Za-z][A-Za-z0-9_]*"
UNITS = {
    "_bytes": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9},
    "_ms": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "_seconds": {"s": 1.0, "m": 60.0, "h": 3600.0},
    "": {"%": 0.01},
}
"""By the end of a metric's name, what a bound may be written in, in the metric's own unit."""
_USUAL = {"_bytes": "size_bytes", "_ms": "latency_ms", "_seconds": "train_seconds"}
"""The metric that people mean who write its name without its end, `size <= 200kB`."""


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
        """From `METRIC <= NUMBER` or `METRIC >= NUMBER`; the number may carry a unit of the metric:
        `size_bytes <= 200kB`, `latency_ms <= 40 ms`, `controllability >= 90%`. Raises `ValueError`
        saying what is legal."""
        match = re.fullmatch(rf"\s*({METRIC})\s*(<=|>=)\s*(\S+?)\s*([A-Za-z%]*)\s*", text)
        try:
            bound = float(match[3]) if match else math.nan
        except ValueError:
            bound = math.nan
        if match is None or not math.isfinite(bound):
            raise ValueError(f"{text!r} is not METRIC <= NUMBER or METRIC >= NUMBER, "
                             "such as latency_ms <= 40")
        units = {"": 1.0, **next(legal for end, legal in UNITS.items() if match[1].endswith(end))}
        if match[4] not in units:
            likely = [name
                      for end, name in _USUAL.items() if match[4] in UNITS[end] and name.startswith(match[1])]
            hint = f" (did you mean {likely[0]}?)" if likely else ""
            raise ValueError(f"{text!r}: {match[1]} is not told in {match[4]!r}{hint}; legal: a bare number, "
                             + ", ".join(filter(None, units)))
        return cls(match[1], "<=" if match[2] == "<=" else ">=", bound * units[match[4]])

    def violation(self, value: float) -> float:
        """How far `value` is beyond the bound, in the metric's unit; 0 or less where the constraint holds."""
        return value - self.bound if self.op == "<=" else self.bound - value

    def holds(self, value: float) -> bool:
        """Whether `value` keeps to the bound; a value that is not a number does not."""
        return self.violation(value) <= 0

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.bound:.12g}"
