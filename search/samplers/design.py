"""Points to begin with, when nothing is known: the middle of the space, then points that fill it evenly.

These stand in blocks of a Latin hypercube: along each dimension every point of a block has a part of its own,
so that each value of a choice comes up about equally often. Of many blocks that one is taken whose nearest
two points lie farthest apart (maximin; Morris and Mitchell 1995), by the distances that the surrogate sees.
numpy only.
"""

from __future__ import annotations

import numpy as np

from search.samplers.encoding import PointEncoder

BLOCK = 8
"""Points that are spread out together: about as many as run at once when nothing was measured yet."""
BLOCKS = 100
"""Blocks of which the best is taken."""


def middle(points: PointEncoder, seed: int) -> np.ndarray:
    """The row of the point in the middle of every range and order; of other choices, any value."""
    rng = np.random.default_rng([seed, 0])
    free = points.features(points.drawn(1, rng)).categorical
    return points.at(np.where(free, rng.uniform(size=len(free)), 0.5)[None])[0]


def spread_point(points: PointEncoder, seed: int, place: int) -> np.ndarray:
    """The row of the point at a place (from 0), by the space, the seed and the place alone."""
    rng = np.random.default_rng([seed, 1 + place // BLOCK])
    blocks = [_block(points, rng) for _ in range(BLOCKS)]
    return max(blocks, key=lambda rows: _nearest(points, rows))[place % BLOCK]


def _block(points: PointEncoder, rng: np.random.Generator) -> np.ndarray:
    parts = rng.permuted(np.tile(np.arange(BLOCK), (len(points.dimensions), 1)), axis=1).T
    return points.at((parts + rng.uniform(size=parts.shape)) / BLOCK)


def _nearest(points: PointEncoder, rows: np.ndarray) -> float:
    """The smallest squared distance of two rows; different codes are 1 apart."""
    found = points.features(rows)
    gaps = found.values[:, None] - found.values[None]
    squares = np.where(found.categorical, gaps != 0, gaps * gaps).sum(axis=2)
    return float(squares[np.triu_indices(len(rows), 1)].min())
