"""Geometry of objective vectors, all in minimization form: layers, crowding distance, hypervolume,
spread. numpy only."""

from __future__ import annotations

import numpy as np

from search.pareto.box_decomposition import cut_volumes


def dominators(vectors: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Which rows of `vectors` [n, k] dominate `vector` [k]: nowhere worse and somewhere better. bool [n];
    smaller is better, and NaN neither dominates nor is dominated."""
    no_worse, better = np.all(vectors <= vector, axis=1), np.any(vectors < vector, axis=1)
    return np.asarray(no_worse & better)


def layers(vectors: np.ndarray) -> np.ndarray:
    """Non-dominated layer of each row (0 = the front), by repeated removal of the front (Goldberg
    1989, NSGA-II).

    `vectors` is [n, k], smaller is better, without NaN. One row dominates another when it is nowhere worse
    and somewhere better, so equal rows share a layer. Returns int [n]. O(n^2 k) time, O(n^2) memory.
    """
    points = np.asarray(vectors, dtype=float)
    assert not np.isnan(points).any(), "NaN has no place in an order"
    count = len(points)
    no_worse, better = np.ones((count, count), bool), np.zeros((count, count), bool)
    for column in points.T:
        no_worse &= column[:, None] <= column[None, :]
        better |= column[:, None] < column[None, :]
    dominates = no_worse & better
    rank = np.full(count, -1)
    remaining = dominates.sum(axis=0)
    level = 0
    while (rank < 0).any():
        front = (rank < 0) & (remaining == 0)
        rank[front] = level
        remaining = remaining - dominates[front].sum(axis=0)
        level += 1
    return rank


def nondominated(vectors: np.ndarray) -> np.ndarray:
    """Which rows of `vectors` [n, k] no other row dominates, bool [n]: layer 0 of `layers`, in O(n) memory
    and O(n m k) time for a front of m rows."""
    points = np.asarray(vectors, dtype=float)
    assert not np.isnan(points).any(), "NaN has no place in an order"
    left = np.lexsort(points.T[::-1])  # no row is dominated by one that comes later
    kept = np.zeros(len(points), dtype=bool)
    while len(left):
        point = points[left[0]]
        beaten = (points[left] >= point).all(axis=1)
        equal = beaten & (points[left] == point).all(axis=1)
        kept[left[equal]] = True
        left = left[~beaten]
    return kept


def crowding(vectors: np.ndarray) -> np.ndarray:
    """Crowding distance of each row of one layer (Deb et al. 2002, section III-B). [n, k] -> float [n].

    The ends of every axis that varies get infinity. Of equal rows only the first keeps the distance,
    the others get 0, so that copies are the first to go. An infinite coordinate counts as the largest
    finite one of its axis.
    """
    points = np.asarray(vectors, dtype=float)
    distance = np.zeros(len(points))
    if not len(points):
        return distance
    unique, first = np.unique(points, axis=0, return_index=True)
    gaps = np.zeros(len(unique))
    for axis in range(unique.shape[1]):
        column = unique[:, axis]
        finite = column[np.isfinite(column)]
        if not finite.size:
            continue
        column = np.clip(column, finite.min(), finite.max())
        span = finite.max() - finite.min()
        if span == 0:
            continue
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        gaps[order[1:-1]] += (ordered[2:] - ordered[:-2]) / span
        gaps[order[[0, -1]]] = np.inf
    if len(unique) == 1:
        gaps[:] = np.inf
    distance[first] = gaps
    return distance


def hypervolume(vectors: np.ndarray, reference: np.ndarray) -> float:
    """Volume between the rows of [n, k] and `reference` [k], exact; by `box_decomposition` above three axes.

    Rows that are not better than the reference on every axis enclose no volume and are left out. The unit is
    the product of the units of the axes. Infinite where a row that encloses volume is.
    """
    reference = np.asarray(reference, dtype=float)
    points = np.asarray(vectors, dtype=float).reshape(-1, len(reference))
    points = points[(points < reference).all(axis=1)]
    if not len(points):
        return 0.0
    if not np.isfinite(reference - points).all():
        return float("inf")
    if len(reference) > 3:
        return float(cut_volumes(points[None], reference)[0])
    return _enclosed(_front(points), reference)


def hypervolumes(sets: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`hypervolume` of each of d sets [d, n, k], float [d]; above three axes all at once."""
    if len(reference) > 3:
        return cut_volumes(sets, reference)
    return np.array([hypervolume(points, reference) for points in sets])


def contributions(vectors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Exclusive hypervolume of each row of [n, k]: what the set loses without it, float [n].
    Copies contribute 0."""
    reference = np.asarray(reference, dtype=float)
    points = np.asarray(vectors, dtype=float).reshape(-1, len(reference))
    if not len(points):
        return np.zeros(0)
    without = np.stack([np.delete(points, index, axis=0) for index in range(len(points))])
    return np.maximum(0.0, hypervolume(points, reference) - hypervolumes(without, reference))


def spread_order(vectors: np.ndarray) -> np.ndarray:
    """Positions of the rows of [n, k] such that every beginning covers the whole well:
    an epsilon-net, int [n].

    Starts at the row with the smallest sum and then always takes the row farthest from those taken (Salinas
    et al. 2021, section 4.1). Axes should be on one scale. O(n^2 k).
    """
    points = np.asarray(vectors, dtype=float)
    if not len(points):
        return np.zeros(0, dtype=int)
    taken = [int(np.argmin(points.sum(axis=1)))]
    gap = np.full(len(points), np.inf)
    while len(taken) < len(points):
        gap = np.minimum(gap, ((points - points[taken[-1]]) ** 2).sum(axis=1))
        gap[taken] = -1.0
        taken.append(int(np.argmax(gap)))
    return np.array(taken)


def _front(points: np.ndarray) -> np.ndarray:
    """Distinct non-dominated rows, in lexicographic order."""
    points = points[np.lexsort(points.T[::-1])]
    points = points[np.r_[True, (points[1:] != points[:-1]).any(axis=1)]]
    if points.shape[1] == 2:  # already sorted by the first axis: a row stays when it lowers the second
        lowest = np.minimum.accumulate(points[:, 1])
        return points[np.r_[True, points[1:, 1] < lowest[:-1]]]
    beaten = ~np.eye(len(points), dtype=bool)  # by another row, which is nowhere worse, and not equal
    for column in points.T:
        beaten &= column[:, None] >= column[None]
    return points[~beaten.any(axis=1)]


def _enclosed(front: np.ndarray, reference: np.ndarray) -> float:
    """Hypervolume of distinct, mutually non-dominated rows of up to three axes in lexicographic order."""
    if len(front) == 1 or len(reference) == 1:
        return float(np.prod(reference - front[0]))
    if len(reference) == 2:
        above = np.r_[reference[1], front[:-1, 1]]
        return float(((reference[0] - front[:, 0]) * (above - front[:, 1])).sum())
    # the height of every cell of the grid that the first two axes cut
    second = np.argsort(front[:, 1], kind="stable")
    height = np.zeros((len(front), len(front)))
    height[second, np.arange(len(front))] = reference[2] - front[second, 2]
    height = np.maximum.accumulate(np.maximum.accumulate(height, axis=0), axis=1)
    wide, deep = np.diff(front[:, 0], append=reference[0]), np.diff(front[second, 1], append=reference[1])
    return float(wide @ height @ deep)
