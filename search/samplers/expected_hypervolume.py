"""Expected improvement of a front's hypervolume by a point that is uncertain, exactly, for
any number of axes.

What no member dominates is cut into boxes once (Lacour, Klamroth and Fonseca 2017); over a box the
expectation is a product over the axes, as in Yang et al. 2019, of what each predicted value falls short of
the box's two ends by. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

TINY = 1e-9
"""Coordinates that are equal are told apart by so much, times the member's place: the cut wants no ties."""
PAIRS = 100_000
"""Pairs of a point and a box up to which all are looked at: above, those that matter are found first."""
REACH = 6.0
"""Standard deviations below its prediction that a point may come out at: beyond, an axis adds less than 1e-10
of one."""


@dataclass(frozen=True)
class Normal:
    """Independent normal predictions on one axis: `mean` and `sd`, float [n]; sd 0 where
    the value is known."""

    mean: np.ndarray
    sd: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        """Medians, float [n]."""
        return self.mean

    @property
    def least(self) -> np.ndarray:
        """What no value is expected below, float [n]."""
        return self.mean - REACH * self.sd

    def shortfall(self, at: np.ndarray) -> np.ndarray:
        """E[max(0, at - Y)], float [n, len(at)]; 0 at minus infinity."""
        gap = np.maximum(at, -1e12)[None] - self.mean[:, None]
        sd = np.maximum(self.sd, 1e-12)[:, None]
        z = gap / sd
        return np.where(np.isfinite(at), np.maximum(gap * ndtr(z) + sd * _density(z), 0.0), 0.0)


@dataclass(frozen=True)
class LogNormal:
    """Predictions whose logarithm is normal with `mean` and `sd`, moved and scaled: Y = (exp(Z)
    - origin) / scale."""

    mean: np.ndarray
    sd: np.ndarray
    origin: float = 0.0
    scale: float = 1.0

    @property
    def middle(self) -> np.ndarray:
        """Medians, float [n]."""
        return (np.exp(self.mean) - self.origin) / self.scale

    @property
    def least(self) -> np.ndarray:
        """What no value is expected below, float [n]."""
        return (np.exp(self.mean - REACH * self.sd) - self.origin) / self.scale

    def shortfall(self, at: np.ndarray) -> np.ndarray:
        """E[max(0, at - Y)], float [n, len(at)]: the price of a put (Black and Scholes 1973) over `scale`."""
        strike = np.asarray(at, float)[None] * self.scale + self.origin
        sd, mean = np.maximum(self.sd, 1e-9)[:, None], self.mean[:, None]
        with np.errstate(all="ignore"):
            z = (np.log(np.maximum(strike, 1e-300)) - mean) / sd
            price = strike * ndtr(z) - np.exp(mean + sd**2 / 2) * ndtr(z - sd)
        return np.where(strike > 0, np.maximum(price, 0.0), 0.0) / self.scale


@dataclass(frozen=True)
class Boxes:
    """Disjoint boxes by their ends, float [b, k] each; lower ones may be minus infinity."""

    lower: np.ndarray
    upper: np.ndarray

    @cached_property
    def ends(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each axis the coordinates at which boxes end, float [e], and by place among them where each box
        begins and where it ends, int [b]: boxes share most of their ends."""
        found = []
        for low, high in zip(self.lower.T, self.upper.T, strict=True):
            ends, place = np.unique(np.concatenate([low, high]), return_inverse=True)
            found.append((ends, place[:len(low)], place[len(low):]))
        return found


def boxes(front: np.ndarray, reference: np.ndarray, ideal: np.ndarray | float = -np.inf) -> Boxes:
    """All that is better than `reference` [k], not better than `ideal` [k], and that no row of `front` [n, k]
    (minimization form) dominates.

    Local upper bounds, each with the k points that define it, updated point by point (Lacour et al. 2017).
    """
    reference = np.asarray(reference, float)
    k = len(reference)
    front = np.maximum(np.asarray(front, float).reshape(-1, k), ideal)
    front = np.unique(front[(front < reference).all(axis=1)], axis=0)
    front = front + TINY * np.arange(len(front))[:, None]
    upper = reference[None].copy()
    defining = np.full((1, k, k), -np.inf)  # defining[u, j]: the point that bounds axis j
    defining[0, np.arange(k), np.arange(k)] = reference
    others = ~np.eye(k, dtype=bool)
    for point in front:
        hit = (point < upper).all(axis=1)
        if not hit.any():
            continue
        old, by = upper[hit], defining[hit]
        new_upper, new_by = [], []
        for axis in range(k):
            valid = point[axis] >= by[:, others[axis], axis].max(axis=1, initial=-np.inf)
            moved, moved_by = old[valid].copy(), by[valid].copy()
            moved[:, axis], moved_by[:, axis] = point[axis], point
            new_upper.append(moved)
            new_by.append(moved_by)
        upper = np.vstack([upper[~hit], *new_upper])
        defining = np.concatenate([defining[~hit], *new_by])
    lower = np.full_like(upper, -np.inf)
    for axis in range(1, k):
        lower[:, axis] = defining[:, :axis, axis].max(axis=1)
    lower = np.maximum(lower, ideal)
    real = (lower < upper).all(axis=1)
    return Boxes(lower[real], upper[real])


def expected_improvement(predicted: list[Normal | LogNormal], cut: Boxes) -> np.ndarray:
    """Expected gain in hypervolume for each of n predicted points, float [n]. `predicted`: one per axis;
    `cut`: `boxes`."""
    if len(predicted[0].mean) * len(cut.lower) > PAIRS:
        return _of_pairs(predicted, cut)
    found: np.ndarray | None = None
    for marginal, (ends, first, last) in zip(predicted, cut.ends, strict=True):
        short = marginal.shortfall(ends)
        part = short[:, last] - short[:, first]
        found = part if found is None else found * part
    assert found is not None
    return np.maximum(found, 0.0).sum(axis=1)


def _of_pairs(predicted: list[Normal | LogNormal], cut: Boxes) -> np.ndarray:
    """`expected_improvement` by the pairs of a point and a box that it may come out in or before: of
    many boxes few are."""
    near = np.ones((len(predicted[0].mean), len(cut.upper)), dtype=bool)
    for axis, marginal in enumerate(predicted):
        near &= cut.upper[:, axis] > marginal.least[:, None]
    point, box = np.nonzero(near)
    found = np.ones(len(point))
    for marginal, (ends, first, last) in zip(predicted, cut.ends, strict=True):
        short, row = marginal.shortfall(ends).ravel(), point * len(ends)
        found *= short[row + last[box]] - short[row + first[box]]
    return np.bincount(point, np.maximum(found, 0.0), len(near))


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * np.minimum(z * z, 1400.0)) / np.sqrt(2 * np.pi)
