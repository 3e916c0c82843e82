"""Which measurements a Gaussian process learns from when there are more than it can take in: its time grows
with the cube of their number.

Proposals go where results are good, and there predictions have to be right; of the rest they need the lie of
the land. So of many results the last ones are kept, with all their rungs, those nearest to the front, and
a sample of the others that is spread over the run and changes little from one result to the next.
"""

from __future__ import annotations

import numpy as np

from search.pareto.geometry import nondominated

LEARNED = 320
"""Measurements that predictions use at most."""
NEAR, RECENT = 160, 40
"""Of these: how many of results nearest to the front, and of the trials told last, with every rung."""
GOLDEN = (5 ** 0.5 - 1) / 2


def learned(owner: np.ndarray, last: np.ndarray, good: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Places of the measurements that are kept, in order: all, up to `LEARNED`.

    `owner` [n]: whose they are, by place in the order of telling; `last` [n]: whether at the highest rung
    that the owner reached; `good`: complete results that count, owners [m] and what they measured, float
    [m, k], smaller is better. Lower rungs of trials that went on, oldest first, are the first to go.
    """
    if len(last) <= LEARNED:
        return np.arange(len(last))
    if last.sum() <= LEARNED:
        order = np.lexsort((np.arange(len(last)), last))
        return np.sort(order[len(last) - LEARNED:])
    final = np.flatnonzero(last)
    newest = np.flatnonzero(owner >= owner[final[-RECENT]])[-LEARNED // 2:]
    near = np.isin(owner[final], _nearest(*good))
    # the fractional parts of multiples of the golden ratio: any so many of them are spread evenly
    place = np.where(near, -1.0, np.arange(len(final)) * GOLDEN % 1)
    rest = final[np.argsort(place, kind="stable")]
    rest = rest[~np.isin(rest, newest)][:LEARNED - len(newest)]
    return np.sort(np.r_[newest, rest])


def _nearest(owner: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Owners of the first `NEAR` results, front by front; of a front that is cut the last told."""
    left, found = np.arange(len(goals)), np.zeros(0, dtype=int)
    while len(left) and len(found) < NEAR:
        front = nondominated(goals[left])
        found = np.r_[found, left[front][::-1]]
        left = left[~front]
    return np.asarray(owner[found[:NEAR]])
