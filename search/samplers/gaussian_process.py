"""A Gaussian process over the points of a space and the rungs at which they were measured; it
predicts the top rung.

The value at a rung is that at the top rung plus a bias that fades on the way up, each a Gaussian process
of its own (Matern 5/2 with a length per dimension; Kennedy and O'Hagan 2000), so that cheap rungs teach as
much about the last one as they turn out to. The value at the top is what each dimension adds on its own plus
what they do together (an additive process, Durrande et al. 2012): few measurements tell effects of single
dimensions, far from them too, where the joint process knows nothing. Settings are the most probable ones
under weak priors. numpy and scipy; float64; no randomness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

ROOT5 = np.sqrt(5.0)
JITTER = 1e-6
EFFECT_LENGTH = 1.0
"""Of what a dimension adds on its own: a smooth curve over the whole range, with a bend or two."""
KNOTS = 24
EFFECTS = 1.0
"""Prior variance of all effects of single dimensions together."""


@dataclass(frozen=True)
class Features:
    """Points as numbers, float [n, d]: in [0, 1] along a range, a code where `categorical` [d]
    (equal or different)."""

    values: np.ndarray
    categorical: np.ndarray

    def apart(self, other: Features) -> np.ndarray:
        """Squared difference (or 1 for different codes) per dimension, float [d, n, m]."""
        gaps = self.values.T[:, :, None] - other.values.T[:, None, :]
        return np.where(self.categorical[:, None, None], (gaps != 0).astype(float), gaps * gaps)

    @cached_property
    def curves(self) -> np.ndarray:
        """Each range's place as a vector; inner products are `matern` of distances in
        `EFFECT_LENGTH`, to 1e-7 (Nystrom over `KNOTS` places). Float [n, ranges, KNOTS]. A product of
        matrices is much cheaper than as many exponentials."""
        return (matern(np.abs(self.values[:, ~self.categorical, None] - _knots()[0]) / EFFECT_LENGTH)
                @ _knots()[1])

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
        found = self.variance * likeness(left, right, self.lengths)
        size = KNOTS * int((~left.categorical).sum())
        ranges = (left.curves * self.effects[~left.categorical, None]).reshape(-1, size)
        found += ranges @ right.curves.reshape(-1, size).T
        for axis in np.flatnonzero(left.categorical):
            same = left.values[:, axis, None] == right.values[None, :, axis]
            found += self.effects[axis] * np.where(same, 1.0, matern(1.0 / EFFECT_LENGTH))
        if at_left.any() and at_right.any():
            both = np.outer(at_left**self.power, at_right**self.power)
            found += both * (self.offset + self.bias * likeness(left, right, self.bias_lengths))
        return found


def likeness(left: Features, right: Features, lengths: np.ndarray) -> np.ndarray:
    """Matern 5/2 of points, float [n, m]."""
    numbers = ~left.categorical
    a, b = (side.values[:, numbers] / lengths[numbers] for side in (left, right))
    r2 = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T, 0.0)
    for axis in np.flatnonzero(left.categorical):
        r2 += (left.values[:, axis, None] != right.values[None, :, axis]) / lengths[axis] ** 2
    return matern(np.sqrt(r2))


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


def priors(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of the logarithms that `Hyperparameters.of` takes."""
    length = np.log(1.2 * np.sqrt(d))
    return (
        np.r_[np.full(2 * d, length), np.full(d, np.log(EFFECTS / d)), 0.0, np.log([0.01, 0.1, 0.1, 0.7])],
        np.r_[np.full(2 * d, 1.0), np.full(d, 1.5), 1.0, 2.0, 1.5, 1.5, 0.5])


def default_hyperparameters(d: int) -> Hyperparameters:
    """The middle of the priors for d dimensions: what is used until there is something to fit to."""
    return Hyperparameters.of(priors(d)[0])


def fit(x: Features, at: np.ndarray, y: np.ndarray, rounds: int = 40) -> tuple[Hyperparameters, float]:
    """The most probable settings given standardized values `y` [n], by L-BFGS from the middle of the
    priors, and their negative logarithmic posterior density (up to a constant)."""
    d, n = x.values.shape[1], len(y)
    squares = x.apart(x)
    flat = squares.reshape(d, -1)
    middle, wide = priors(d)
    eye = np.eye(n)
    depth = np.log(np.maximum(at, 1e-9))
    below = (at > 0).astype(float)
    alone = matern(np.sqrt(squares) / EFFECT_LENGTH)
    alone[~x.categorical] = np.einsum("nik,mik->inm", x.curves, x.curves)
    alone = alone.reshape(d, -1)

    def kernel(inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Likeness, and its slope over squared distance times -2."""
        r = ROOT5 * np.sqrt(np.tensordot(inverse, squares, 1))
        fade = np.exp(-r)
        return (1 + r + r * r / 3) * fade, (1 + r) * fade * (5 / 3)

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = np.exp(logs)
        inverse, other = parameters[:d] ** -2, parameters[d:2 * d] ** -2
        own = parameters[2 * d:3 * d]
        variance, noise, bias, offset, power = parameters[3 * d:]
        main, slope = kernel(inverse)
        side, steep = kernel(other)
        share = below * np.exp(power * depth)
        both = np.outer(share, share)
        lower = both * (offset + bias * side)
        covariance = variance * main + (own @ alone).reshape(n, n) + lower + (noise + JITTER) * eye
        factor = cholesky(covariance, lower=True, check_finite=False)
        solved = cho_solve((factor, True), y, check_finite=False)
        pull = (logs - middle) / wide
        value = 0.5 * y @ solved + np.log(np.diag(factor)).sum() + 0.5 * pull @ pull
        weight = np.outer(solved, solved) - cho_solve((factor, True), eye, check_finite=False)
        pressed = weight * both
        gradient = np.r_[
            flat @ (weight * variance * slope).ravel() * inverse,
            flat @ (pressed * bias * steep).ravel() * other, own * (alone @ weight.ravel()),
            variance * (weight * main).sum(), noise * np.trace(weight), bias * (pressed * side).sum(),
            offset * pressed.sum(), 2 * power * ((weight * lower).sum(axis=1) * depth * below).sum()]
        return value, -0.5 * gradient + pull / wide

    bounds = list(zip(middle - 4 * wide, middle + 4 * wide, strict=True))
    found = minimize(loss, middle, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": rounds})
    return Hyperparameters.of(found.x), float(found.fun)


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
        return cholesky(covariance, lower=True, check_finite=False)

    @cached_property
    def weights(self) -> np.ndarray:
        """Inverse covariance times the standardized values."""
        return cho_solve((self.factor, True), (self.y - self.center) / self.scale, check_finite=False)

    def believe(self, points: Features) -> Posterior:
        """As if the points had been measured at the top rung and had come out as predicted: what is
        near them is less uncertain, and no prediction changes."""
        if not len(points.values):
            return self
        x = Features(np.vstack([self.x.values, points.values]), self.x.categorical)
        return replace(self, x=x, at=np.r_[self.at, np.zeros(len(points.values))],
                       y=np.r_[self.y, self.predict(points)[0]])

    def predict(self, points: Features) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the noiseless value at the top rung, float [m] each."""
        across = self.hyperparameters.between(points, np.zeros(len(points.values)), self.x, self.at)
        half = solve_triangular(self.factor, across.T, lower=True, check_finite=False)
        sd = np.sqrt(np.maximum(self.hyperparameters.prior - (half * half).sum(0), 1e-10))
        return self.center + self.scale * (across @ self.weights), self.scale * sd
