"""The most probable settings of a Gaussian process (`gaussian_process`) by measurements and weak priors.

What is computed with are pairs of measurements, each pair once: distances per dimension are known before the
search for settings begins, and covariances are symmetric. numpy and scipy; float64; no randomness.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.linalg import LinAlgError
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs
from scipy.optimize import minimize

from search.samplers.gaussian_process import (
    EFFECT_LENGTH,
    JITTER,
    ROOT5,
    Features,
    Hyperparameters,
    matern,
)

EFFECTS = 1.0
"""Prior variance of all effects of single dimensions together."""


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
    """The most probable settings given standardized values `y` [n] of points `x` at rungs `at` [n], by L-BFGS
    from the middle of the priors, and their negative logarithmic posterior density (up to a constant).
    Several values of the same points: `Pairs.fit`."""
    return Pairs(x, at).fit(y, rounds)


class Pairs:
    """n measured points by pairs, p = n (n + 1) / 2 of them, whatever was measured there."""

    def __init__(self, x: Features, at: np.ndarray):
        n, self.d = len(at), x.values.shape[1]
        self.middle, self.wide = priors(self.d)
        left, right = np.tril_indices(n)
        self.place = left + n * right  # in a matrix whose columns lie one after the other, as LAPACK's do
        self.ends, self.own = (left, right), left == right
        self.often = np.where(self.own, 1.0, 2.0)
        values = np.ascontiguousarray(x.values.T)
        gaps = values[:, left] - values[:, right]
        self.squares = np.where(x.categorical[:, None], (gaps != 0).astype(float), gaps * gaps)  # [d, p]
        self.alone = matern(np.sqrt(self.squares) / EFFECT_LENGTH)
        for axis, curve in zip(np.flatnonzero(~x.categorical), x.curves.transpose(1, 0, 2), strict=True):
            self.alone[axis] = (curve @ curve.T)[left, right]
        self.below = np.flatnonzero((at[left] > 0) & (at[right] > 0))  # pairs that share a bias
        self.squares_below = np.ascontiguousarray(self.squares[:, self.below])
        depth = np.log(np.maximum(at, 1e-9))
        self.depth = depth[left[self.below]] + depth[right[self.below]]
        self.n = n

    def fit(self, y: np.ndarray, rounds: int = 40) -> tuple[Hyperparameters, float]:
        """As `fit`, for values of these points."""
        bounds = list(zip(self.middle - 4 * self.wide, self.middle + 4 * self.wide, strict=True))
        found = minimize(partial(self.loss, y=y), self.middle, jac=True, method="L-BFGS-B", bounds=bounds,
                         options={"maxiter": rounds})
        return Hyperparameters.of(found.x), float(found.fun)

    def loss(self, logs: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """The negative logarithmic posterior density of settings, and its slope over their logarithms."""
        d, parameters = self.d, np.exp(logs)
        inverse, other, own = parameters[:d] ** -2, parameters[d:2 * d] ** -2, parameters[2 * d:3 * d]
        variance, noise, bias, offset, power = parameters[3 * d:]
        main, slope = _kernel(inverse @ self.squares)
        side, steep = _kernel(other @ self.squares_below)
        both = np.exp(power * self.depth)
        lower = both * (offset + bias * side)
        covariance = variance * main + own @ self.alone
        covariance[self.below] += lower
        covariance[self.own] += noise + JITTER
        inverted, solved, determinant = self._solve(covariance, y)
        pull = (logs - self.middle) / self.wide
        value = 0.5 * y @ solved + determinant + 0.5 * pull @ pull
        weight = (solved[self.ends[0]] * solved[self.ends[1]] - inverted) * self.often
        pressed = weight[self.below] * both
        gradient = np.empty_like(parameters)  # filled in place: np.r_ takes as long as the sums
        gradient[:d] = self.squares @ (weight * variance * slope) * inverse
        gradient[d:2 * d] = self.squares_below @ (pressed * bias * steep) * other
        gradient[2 * d:3 * d] = own * (self.alone @ weight)
        gradient[3 * d:] = (variance * (weight @ main), noise * weight[self.own].sum(),
                            bias * (pressed @ side), offset * pressed.sum(),
                            power * (weight[self.below] * lower) @ self.depth)
        return value, -0.5 * gradient + pull / self.wide

    def _solve(self, covariance: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The inverse of a covariance [p], by pairs, the solution for `y`, and half of the determinant's
        logarithm."""
        matrix = np.zeros(self.n * self.n)
        matrix[self.place] = covariance
        factor, failed = dpotrf(matrix.reshape(self.n, self.n).T, lower=1, overwrite_a=1)
        if failed:
            raise LinAlgError("covariance of measurements is not positive definite")
        solved, _ = dpotrs(factor, y, lower=1)
        determinant = float(np.log(np.diag(factor)).sum())
        inverted, _ = dpotri(factor, lower=1, overwrite_c=1)
        return inverted.T.ravel()[self.place], solved, determinant


def _kernel(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matern 5/2 of squared distances in lengths, and its slope over them times -2."""
    r = ROOT5 * np.sqrt(squares)
    fade = np.exp(-r)
    return (1 + r + r * r / 3) * fade, (1 + r) * fade * (5 / 3)
