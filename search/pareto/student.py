"""Student's t: the factor of a 95 % interval around the mean of a few measurements."""

from __future__ import annotations

import math
from functools import lru_cache

TAIL = 0.975


@lru_cache(maxsize=1024)
def student_t(freedom: int) -> float:
    """The 0.975 quantile at so many degrees of freedom, at least 1; exact to about 1e-12.

    The probability within +-t is a finite sum for whole degrees of freedom (Abramowitz and Stegun 1964,
    26.7.3 and 26.7.4), of the angle atan(t / sqrt(freedom)), which is searched by halving. scipy has the
    quantile too, and takes 0.3 s to import.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, freedom) < 2 * TAIL - 1 else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """The probability of |t| <= sqrt(freedom) tan(angle)."""
    odd, square = freedom % 2, math.cos(angle) ** 2
    term = total = math.cos(angle) if odd else 1.0
    for n in range(2 + odd, freedom - 1, 2):
        term *= square * (n - 1) / n
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
