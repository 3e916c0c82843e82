"""The Gaussian process against scikit-learn's, and what it makes of rungs."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from search.samplers.fitting import Pairs, fit, priors
from search.samplers.gaussian_process import (
    EFFECT_LENGTH,
    FINE,
    JITTER,
    Covariance,
    Features,
    Hyperparameters,
    Posterior,
    likeness,
)


def numbers(rows):
    return Features(np.asarray(rows, dtype=float), np.zeros(np.shape(rows)[1], dtype=bool))


def data(n=30, d=3, seed=0, rungs=3):
    rng = np.random.default_rng(seed)
    x, at = rng.uniform(size=(n, d)), rng.integers(rungs, size=n) / max(1, rungs - 1)
    y = np.sin(5 * x[:, 0]) + 0.5 * x[:, 1] ** 2 + 0.3 * at * (1 + x[:, 1]) + 0.02 * rng.standard_normal(n)
    return x, at, y


def test_on_one_rung_it_is_a_plain_gaussian_process():
    x, _, y = data()
    hyperparameters = Hyperparameters(np.array([0.3, 0.7, 2.0]), np.ones(3), np.array([0.4, 0.2, 0.0]),
                                      variance=1.7, noise=0.01, bias=0.5, offset=0.3, power=0.5)
    far = 1e6  # a dimension with that length does not count
    kernel = (ConstantKernel(1.7) * Matern([0.3, 0.7, 2.0], nu=2.5) + WhiteKernel(0.01 + JITTER)
              + ConstantKernel(0.4) * Matern([EFFECT_LENGTH, far, far], nu=2.5)
              + ConstantKernel(0.2) * Matern([far, EFFECT_LENGTH, far], nu=2.5))
    oracle = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(x, (y - 1.0) / 2.0)
    points = np.random.default_rng(1).uniform(size=(9, 3))
    mean, sd = Posterior(hyperparameters, numbers(x), np.zeros(len(x)), y, 1.0, 2.0).predict(numbers(points))
    wanted, spread = oracle.predict(points, return_std=True)
    assert mean == pytest.approx(1.0 + 2.0 * wanted, rel=1e-5)
    assert sd == pytest.approx(2.0 * np.sqrt(spread**2 - 0.01 - JITTER), rel=1e-5), (
        "the value, not its next measurement")


def test_the_fit_is_a_maximum_of_the_posterior_density():
    x, at, y = data()
    y = (y - y.mean()) / y.std()
    fitted, least = fit(numbers(x), at, y, rounds=200)
    logs = np.log([*fitted.lengths, *fitted.bias_lengths, *fitted.effects, fitted.variance, fitted.noise,
                   fitted.bias, fitted.offset, fitted.power])

    def loss(logs):
        hyperparameters = Hyperparameters.of(logs)
        covariance = (hyperparameters.between(numbers(x), at, numbers(x), at)
                      + (hyperparameters.noise + JITTER) * np.eye(len(y)))
        middle, wide = priors(3)
        return 0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1]
                      + (((logs - middle) / wide) ** 2).sum())

    assert loss(logs) == pytest.approx(least)
    for step in 0.1 * np.eye(len(logs)):
        assert loss(logs + step) > least - 1e-4 and loss(logs - step) > least - 1e-4
    assert min(fitted.effects[:2]) > 4 * fitted.effects[2], "the third dimension does nothing"


def test_the_slope_of_the_density_is_that_of_its_values():
    x, at, y = data(n=14)
    x[:, 1] = np.floor(3 * x[:, 1])
    pairs = Pairs(Features(x, np.array([False, True, False])), at)
    logs = priors(3)[0] + np.random.default_rng(1).normal(size=14)
    _, slope = pairs.loss(logs, y)
    steps = 1e-6 * np.eye(len(logs))
    wanted = [(pairs.loss(logs + step, y)[0] - pairs.loss(logs - step, y)[0]) / 2e-6 for step in steps]
    assert slope == pytest.approx(np.array(wanted), rel=1e-4, abs=1e-5)


def test_what_a_dimension_does_on_its_own_is_known_where_nothing_was_measured():
    """Measured in one half of a cube, where a separable function has its optimum in the other."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(40, 5))
    x[:, 0] *= np.where(x[:, 1:].mean(axis=1) > 0.5, 0.4, 1.0)  # never large in both
    y = ((x - 0.7) ** 2).sum(axis=1) + 0.01 * rng.standard_normal(40)
    hyperparameters, _ = fit(numbers(x), np.zeros(40), (y - y.mean()) / y.std())
    points = numbers(rng.uniform(0.6, 1.0, size=(200, 5)))
    mean, sd = Posterior(hyperparameters, numbers(x), np.zeros(40), y, y.mean(), y.std()).predict(points)
    wrong = mean - ((points.values - 0.7) ** 2).sum(axis=1)
    assert np.sqrt(np.mean(wrong**2)) < 0.1 * y.std() and (np.abs(wrong) < 3 * sd).mean() > 0.8


def test_lower_rungs_teach_the_top_one():
    x, at, y = data(n=60)
    points = np.random.default_rng(2).uniform(size=(200, 3))
    truth = np.sin(5 * points[:, 0]) + 0.5 * points[:, 1] ** 2
    top = at == 0
    error = []
    for kept in (top, np.ones(len(y), dtype=bool)):
        center, scale = y[kept].mean(), y[kept].std()
        hyperparameters, _ = fit(numbers(x[kept]), at[kept], (y[kept] - center) / scale)
        mean, sd = Posterior(hyperparameters, numbers(x[kept]), at[kept], y[kept], center,
                             scale).predict(numbers(points))
        error.append(np.sqrt(np.mean((mean - truth) ** 2)))
        assert (np.abs(mean - truth) < 3 * sd).mean() > 0.9
    assert error[1] < 0.6 * error[0]


def test_believed_points_are_the_same_as_measurements_at_their_predicted_value():
    x, at, y = data()
    hyperparameters, _ = fit(numbers(x), at, y)
    points, believed = (numbers(np.random.default_rng(seed).uniform(size=(count, 3)))
                        for seed, count in ((3, 8), (4, 2)))
    plain = Posterior(hyperparameters, numbers(x), at, y, 0.0, 1.0)
    mean, sd = plain.believe(believed).predict(points)
    more = Posterior(hyperparameters, numbers(np.vstack([x, believed.values])), np.r_[at, 0, 0],
                     np.r_[y, plain.predict(believed)[0]], 0.0, 1.0)
    wanted, spread = more.predict(points)
    assert mean == pytest.approx(wanted, abs=1e-6) and sd == pytest.approx(spread, rel=1e-4)
    assert (sd < plain.predict(points)[1]).all()
    assert plain.mean(points) == pytest.approx(plain.predict(points)[0])


def test_codes_are_equal_or_different():
    categorical = Features(np.array([[0.0], [1.0], [2.0], [0.0]]), np.array([True]))
    found = likeness(categorical, categorical, np.array([1.0]))
    assert found[0, 3] == 1.0 and found[0, 1] == found[0, 2] == found[1, 2] < 1.0


def test_with_many_measurements_fewer_waves_are_as_good():
    """In a space of ranges and codes, with strong effects: the same predictions, and believed points that are
    measured already do no harm."""
    rng = np.random.default_rng(0)
    values = np.c_[rng.uniform(size=(FINE + 40, 3)), rng.integers(3, size=FINE + 40)]
    x = Features(values, np.array([False, False, False, True]))
    y = 5 * np.sin(5 * values[:, 0]) + values[:, 3] + 0.01 * rng.standard_normal(len(values))
    hyperparameters = Hyperparameters(np.full(4, 2.0), np.ones(4), np.full(4, 80.0), variance=0.1, noise=1e-3,
                                      bias=0.5, offset=0.3, power=0.5)
    found = Posterior(hyperparameters, x, np.zeros(len(y)), y, 0.0, 1.0)
    points = Features(np.c_[rng.uniform(size=(99, 3)), rng.integers(3, size=99)], x.categorical)
    mean, sd = found.predict(points)
    found.believe(x[np.arange(80)]).predict(points)
    exact = Posterior(hyperparameters, x, np.zeros(len(y)), y, 0.0, 1.0)
    exact.__dict__["across"] = Covariance(hyperparameters, x, fine=True)
    kernel = exact.across(x) + (1e-3 + JITTER) * np.eye(len(y))
    exact.__dict__["factor"] = np.asfortranarray(np.linalg.cholesky(kernel))
    wanted, spread = exact.predict(points)
    assert mean == pytest.approx(wanted, abs=0.01) and sd == pytest.approx(spread, rel=0.1)
