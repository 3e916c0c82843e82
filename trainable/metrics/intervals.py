"""95 % intervals of a mean over targets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959963984540054  # the normal distribution's 97.5 % point
DRAWS, SEED = 2000, 0


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of k successes of n (Wilson 1927): within [0, 1], and not empty at
    none or all of n."""
    share, z2 = successes / n, Z**2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of scores in [0, 1]: Wilson where all are 0 or 1, else the percentile
    bootstrap over targets."""
    found = np.asarray(values, dtype=float)
    mean = float(found.mean())
    if np.isin(found, (0.0, 1.0)).all():
        return mean, *wilson(float(found.sum()), len(found))
    draws = np.random.default_rng(SEED).integers(len(found), size=(DRAWS, len(found)))
    low, high = np.percentile(found[draws].mean(1), (2.5, 97.5))
    return mean, float(low), float(high)


def perplexity_interval(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float, float]:
    """(exp(total nats / total tokens), low, high): percentile bootstrap over sentences."""
    nats, tokens = np.asarray(sums, dtype=float), np.asarray(counts, dtype=float)
    draws = np.random.default_rng(SEED).integers(len(nats), size=(DRAWS, len(nats)))
    low, high = np.percentile(np.exp(nats[draws].sum(1) / tokens[draws].sum(1)), (2.5, 97.5))
    return float(np.exp(nats.sum() / tokens.sum())), float(low), float(high)
