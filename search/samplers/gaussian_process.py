"""A Gaussian process over the points of a space and the rungs at which they were measured; it
predicts the top rung.

The value at a rung is that at the top rung plus a bias that fades on the way up, each a Gaussian process
of its own (Matern 5/2 with a length per dimension; Kennedy and O'Hagan 2000), so that cheap rungs teach as
much about the last one as they turn out to. The value at the top is what each dimension adds on its own plus
what they do together (an additive process, Durrande et al. 2012): few measurements tell effects of single
dimensions, far from them too, where the joint process knows nothing. Its settings are found by `fitting`.
numpy and scipy; float64; no randomness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.blas import dtrmm, dtrsm
from scipy.linalg.lapack import dtrtri

ROOT5 = np.sqrt(5.0)
JITTER = 1e-6
EFFECT_LENGTH = 1.0
"""Of what a dimension adds on its own: a smooth curve over the whole range, with a bend or two."""
KNOTS, WAVES = 24, 16
"""Places along a range by which likeness along it is told, and how many combinations of them are enough from
`FINE` measurements on."""
FINE = 128
MANY = 64
"""Points from which a factor is inverted."""
HALF = 256
"""Measurements from which the inverse factor is multiplied as the triangle that it is: half of the work."""


@dataclass(frozen=True)
class Features:
    """Points as numbers, float [n, d]: in [0, 1] along a range, a code where `categorical` [d]
    (equal or different)."""

    values: np.ndarray
    categorical: np.ndarray

    @cached_property
    def curves(self) -> np.ndarray:
        """Each range's place as a vector; inner products are `matern` of distances in
        `EFFECT_LENGTH`, to 1e-7 (Nystrom over `KNOTS` places). Float [n, ranges, KNOTS]. A product of
        matrices is much cheaper than as many exponentials."""
        return self._to_knots @ _knots()[1]

    @cached_property
    def waves(self) -> np.ndarray:
        """`curves` by fewer numbers, to 4e-7: float [n, ranges, WAVES]."""
        return self._to_knots @ _waves()

    @property
    def _to_knots(self) -> np.ndarray:
        return matern(np.abs(self.values[:, ~self.categorical, None] - _knots()[0]) / EFFECT_LENGTH)

    def __getitem__(self, index: np.ndarray) -> Features:
        return Features(self.values[index], self.categorical)


@dataclass(frozen=True)
class Hyperparameters:
    """Of the kernel, all but lengths [d] and `power` in units of the standardized values' variance.

    `effects` [d] (variances) are of what each dimension adds to the value at the top rung, `lengths` and
    `variance` of what they do together; `bias_lengths` and `bias` of how a lower rung differs, which fades
    with the share of the way below the top to the `power`; `offset` is the part of that all points share.
    """

    lengths: np.ndarray
    bias_lengths: np.ndarray
    effects: np.ndarray
    variance: float
    noise: float
    bias: float
    offset: float
    power: float

    @classmethod
    def of(cls, logs: np.ndarray) -> Hyperparameters:
        """From logarithms: of d lengths, d lengths of the bias, d effects, variance, noise,
        bias, offset, power."""
        parameters = np.exp(logs)
        d = (len(parameters) - 5) // 3
        return cls(parameters[:d], parameters[d:2 * d], parameters[2 * d:3 * d],
                   *map(float, parameters[3 * d:]))

    @property
    def prior(self) -> float:
        """Variance of the value at the top rung before anything was measured."""
        return self.variance + float(self.effects.sum())

    def between(self, left: Features, at_left: np.ndarray, right: Features,
                at_right: np.ndarray) -> np.ndarray:
        """Covariance of noiseless values, float [n, m]; `at_*`: how far below the top rung, in [0, 1]."""
        found = Covariance(self, right)(left)
        if at_left.any() and at_right.any():
            both = np.outer(at_left**self.power, at_right**self.power)
            found += both * (self.offset + self.bias * likeness(left, right, self.bias_lengths))
        return found


class Codes:
    """Categorical values of points as columns, one for each of their codes, so that inner products over the
    columns of a dimension are 1 for equal codes and 0 for different ones."""

    def __init__(self, points: Features):
        known = [(axis, code) for axis in np.flatnonzero(points.categorical)
                 for code in np.unique(points.values[:, axis])]
        self.of = np.array([axis for axis, _ in known], dtype=int)  # the dimension of each column
        self.codes = np.array([code for _, code in known])

    def __call__(self, points: Features) -> np.ndarray:
        """The columns of any points, float [m, columns]."""
        return (points.values[:, self.of] == self.codes).astype(float)


class Likeness:
    """Matern 5/2 of points with those of `right`, float [m, n]. Squared distances are one product of
    matrices."""

    def __init__(self, right: Features, lengths: np.ndarray):
        self.numbers, self.lengths, self.codes = ~right.categorical, lengths, Codes(right)
        b = right.values[:, self.numbers] / lengths[self.numbers]
        apart = (lengths[right.categorical] ** -2.0).sum()
        self.right = np.hstack([b, self.codes(right), np.ones((len(b), 1)),
                                (b * b).sum(1, keepdims=True) + apart]).T

    def __call__(self, left: Features) -> np.ndarray:
        a = left.values[:, self.numbers] / self.lengths[self.numbers]
        codes = self.codes(left) / -self.lengths[self.codes.of] ** 2
        squares = (a * a).sum(1, keepdims=True)
        found = np.hstack([-2 * a, codes, squares, np.ones((len(a), 1))]) @ self.right
        np.maximum(found, 0.0, out=found)
        found *= ROOT5 * ROOT5
        r = np.sqrt(found)
        found *= 1 / 3
        found += r
        found += 1
        found *= np.exp(np.negative(r, out=r), out=r)
        return found


class Effects:
    """Covariances of what single dimensions add, with those of the points `right`, float [m, n]."""

    def __init__(self, right: Features, effects: np.ndarray, fine: bool):
        self.codes, self.fine, axes = Codes(right), fine, right.categorical
        apart, size = matern(1.0 / EFFECT_LENGTH), KNOTS if fine else WAVES
        self.weights = np.r_[np.repeat(effects[~axes], size), effects[self.codes.of] * (1 - apart)]
        self.level = float(effects[axes].sum() * apart)
        self.right = (self._columns(right) * self.weights).T

    def _columns(self, points: Features) -> np.ndarray:
        curves = points.curves if self.fine else points.waves
        return np.hstack([curves.reshape(len(curves), curves.shape[1] * curves.shape[2]), self.codes(points)])

    def __call__(self, left: Features) -> np.ndarray:
        found = self._columns(left) @ self.right
        found += self.level
        return np.asarray(found)

    def variance(self, points: Features) -> np.ndarray:
        """Of what all dimensions add, float [m]: with few waves a little less than it should be."""
        return self._columns(points) ** 2 @ self.weights + self.level


class Covariance:
    """Covariances of values at the top rung with those of the points `right`, float [m, n]; what can be is
    prepared. `fine`: by all knots, as where there are few points."""

    def __init__(self, of: Hyperparameters, right: Features, fine: bool | None = None):
        self.of, self.fine = of, len(right.values) <= FINE if fine is None else fine
        self.together = Likeness(right, of.lengths)
        self.alone = Effects(right, of.effects, self.fine)

    def __call__(self, left: Features) -> np.ndarray:
        found = self.together(left)
        found *= self.of.variance
        found += self.alone(left)
        return found

    def variance(self, points: Features) -> np.ndarray | float:
        """Of the values themselves, float [m]."""
        return self.of.prior if self.fine else self.of.variance + self.alone.variance(points)


def likeness(left: Features, right: Features, lengths: np.ndarray) -> np.ndarray:
    """Matern 5/2 of points, float [n, m]."""
    return Likeness(right, lengths)(left)


def matern(distance: np.ndarray | float) -> np.ndarray:
    """Matern 5/2 of distances in lengths."""
    r = ROOT5 * distance
    return (1 + r + r * r / 3) * np.exp(-r)


@cache
def _knots() -> tuple[np.ndarray, np.ndarray]:
    """Places along a range, float [KNOTS], and what makes likeness to them a vector of `curves`,
    float [KNOTS, KNOTS]."""
    places = np.linspace(0.0, 1.0, KNOTS)
    likeness = matern(np.abs(places[:, None] - places) / EFFECT_LENGTH)
    return places, solve_triangular(cholesky(likeness + 1e-12 * np.eye(KNOTS), lower=True), np.eye(KNOTS),
                                    lower=True).T


@cache
def _waves() -> np.ndarray:
    """As the second of `_knots`, float [KNOTS, WAVES]: of its columns' combinations the strongest."""
    places, whole = _knots()
    line = np.linspace(0.0, 1.0, 20 * KNOTS + 1)
    curves = matern(np.abs(line[:, None] - places) / EFFECT_LENGTH) @ whole
    return np.asarray(whole @ np.linalg.svd(curves, full_matrices=False)[2][:WAVES].T)


@dataclass(frozen=True)
class Posterior:
    """What measurements `y` [n] of points `x` at rungs `at` [n] say about the top rung,
    in the unit of `y`."""

    hyperparameters: Hyperparameters
    x: Features
    at: np.ndarray
    y: np.ndarray
    center: float
    scale: float

    @cached_property
    def factor(self) -> np.ndarray:
        """Cholesky factor of the measurements' covariance."""
        covariance = self.hyperparameters.between(self.x, self.at, self.x, self.at)
        covariance[np.diag_indices_from(covariance)] += self.hyperparameters.noise + JITTER
        return np.asfortranarray(cholesky(covariance, lower=True, check_finite=False))

    @cached_property
    def weights(self) -> np.ndarray:
        """Inverse covariance times the standardized values."""
        return cho_solve((self.factor, True), (self.y - self.center) / self.scale, check_finite=False)

    @cached_property
    def across(self) -> Covariance:
        """Covariances of points at the top rung with the measurements, float [m, n]."""
        return Covariance(self.hyperparameters, self.x)

    def believe(self, points: Features) -> Posterior:
        """As if the points had been measured at the top rung and had come out as predicted: what is
        near them is less uncertain, and no prediction changes."""
        if not len(points.values):
            return self
        x = Features(np.vstack([self.x.values, points.values]), self.x.categorical)
        here, count = np.zeros(len(points.values)), len(self.at)
        found = replace(self, x=x, at=np.r_[self.at, here], y=np.r_[self.y, self.mean(points)])
        half = self._half(self.across(points))
        left = Covariance(self.hyperparameters, points, self.across.fine)(points) - half.T @ half
        left[np.diag_indices_from(left)] += self.hyperparameters.noise + JITTER
        factor = np.zeros((len(found.at), len(found.at)), order="F")
        factor[:count, :count], factor[count:, :count] = self.factor, half.T
        factor[count:, count:] = cholesky(left, lower=True, check_finite=False)
        # what is predicted anyway leaves nothing to explain
        found.__dict__.update(factor=factor, weights=np.r_[self.weights, here])
        return found

    def mean(self, points: Features) -> np.ndarray:
        """Of `predict` the mean alone, which takes a small part of the time."""
        across = self.across(points)
        return np.asarray(self.center + self.scale * (across @ self.weights))

    @cached_property
    def inverse(self) -> np.ndarray:
        """Inverse of the factor: with many points a product of matrices is quicker than solving."""
        return np.asarray(dtrtri(self.factor, lower=1)[0])

    def _half(self, across: np.ndarray) -> np.ndarray:
        """Inverse factor times covariances [m, n], float [n, m]."""
        if len(across) < MANY or not len(self.at):
            return np.asarray(dtrsm(1.0, self.factor, across.T, lower=1))
        if len(self.at) < HALF:
            return self.inverse @ across.T
        return np.asarray(dtrmm(1.0, self.inverse, across.T, lower=1))

    def predict(self, points: Features) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the noiseless value at the top rung, float [m] each."""
        across = self.across(points)
        mean = self.center + self.scale * (across @ self.weights)
        half = self._half(across)
        variance = np.maximum(self.across.variance(points) - np.einsum("nm,nm->m", half, half), 1e-10)
        return mean, self.scale * np.sqrt(variance)
