"""Hypervolume by cutting what no row dominates into disjoint boxes, row by row (Lacour, Klamroth and
Fonseca 2017, algorithm HBDA-NI), for many sets at once. numpy only.

Boxes are kept as ranks of coordinates, in which there are no ties: equal rows and equal coordinates then cut
boxes without extent, which add nothing, and nothing has to be moved to tell them apart.
"""

from __future__ import annotations

import numpy as np

TOGETHER = 64
"""Sets that are cut at once: above, memory grows and nothing gets faster."""


def cut_volumes(sets: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Volume between the rows of each of d sets [d, n, k] and `reference` [k], k > 1, exact; float [d].

    Rows that are not better than the reference on every axis add nothing. Rows enter by their last
    coordinate: each adds what it newly covers of the other axes, times its height over the last one, so that
    nothing is ever taken off and no digits are lost. Infinite where a row that counts is.
    """
    sets, reference = np.asarray(sets, float), np.asarray(reference, float)
    if len(sets) > TOGETHER:
        return np.concatenate([cut_volumes(sets[start:start + TOGETHER], reference)
                               for start in range(0, len(sets), TOGETHER)])
    order = np.argsort(sets[:, :, -1], axis=1, kind="stable")
    sets = np.take_along_axis(sets, order[:, :, None], axis=1)
    counts = (sets < reference).all(axis=2)
    endless = (counts & ~(np.isfinite(sets) & np.isfinite(reference)).all(axis=2)).any(axis=1)
    finite = counts & ~endless[:, None]
    height = np.where(finite, reference[-1] - np.where(finite, sets[:, :, -1], 0.0), 0.0)
    found = (_gains(sets[:, :, :-1], reference[:-1], finite) * height).sum(axis=1)
    return np.where(endless, np.inf, found)


def growth(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Hypervolume of the first 1, 2, ... n rows of [n, k], float [n]: as they come, each adds what it newly
    covers, and so the curve never falls. Rows and reference are finite."""
    points, reference = np.asarray(points, float)[None], np.asarray(reference, float)
    return np.cumsum(_gains(points, reference, np.all(points < reference, axis=2))[0])


def _gains(sets: np.ndarray, reference: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What each row of [d, n, m] adds to the volume of the rows before it in its set, float [d, n]. `counts`
    [d, n]: rows that are looked at.

    A box is its upper corner, a local upper bound, and the m rows that define it; so also the rows that
    cut it are known, and no box is made twice.
    """
    d, n, m = sets.shape
    rank, value = _ranks(sets, reference, counts)
    axes, own_axis, earlier = np.arange(m), np.eye(m, dtype=bool), np.triu(np.ones((m, m), bool), 1)
    owner = np.arange(d)  # the set of each box
    upper = np.full((d, m), n)
    defining = np.where(own_axis, n, np.full((d, m, m), -1))  # [box, j]: the row that bounds axis j, or -1
    gains, used = np.zeros((d, n)), d
    for step in range(n):
        rows = rank[:, step]
        inside = ((rows[0] if d == 1 else rows[owner[:used]]) < upper[:used]).all(axis=1)
        hit = np.flatnonzero(inside)
        if not len(hit):
            continue
        whose, old, by = owner[hit], upper[hit], defining[hit]
        row = rows[whose]
        lower = np.maximum(np.where(earlier, by, -1).max(axis=1), row)
        at = whose[:, None]
        sides = value[at, axes, old] - value[at, axes, lower]
        gains[:, step] = np.bincount(whose, sides.prod(axis=1), d)
        box, axis = np.nonzero(row >= np.where(own_axis, -1, by).max(axis=1))
        each = np.arange(len(box))
        old, by, whose = old[box], by[box], whose[box]
        old[each, axis], by[each, axis] = row[box, axis], row[box]
        upper[hit] = -1  # nothing is inside any more; new boxes take these places first
        more = max(0, len(box) - len(hit))
        while used + more > len(upper):
            owner, upper, defining = (np.concatenate([part, np.empty_like(part)])
                                      for part in (owner, upper, defining))
        places = np.concatenate([hit, np.arange(used, used + more)])[:len(box)]
        owner[places], upper[places], defining[places] = whose, old, by
        used += more
    return gains


def _ranks(sets: np.ndarray, reference: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each coordinate on its axis, int [d, n, m], n for rows that do not count; and the
    coordinate at each place, float [d, m, n + 1], the reference last."""
    d, n, m = sets.shape
    columns = np.where(counts[:, :, None], sets, reference).transpose(0, 2, 1)
    order = np.argsort(columns, axis=2, kind="stable")
    rank = np.empty((d, m, n), dtype=int)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(n), order.shape), axis=2)
    value = np.concatenate([np.take_along_axis(columns, order, axis=2),
                            np.broadcast_to(reference[:, None], (d, m, 1))], axis=2)
    return np.where(counts[:, :, None], rank.transpose(0, 2, 1), n), value
