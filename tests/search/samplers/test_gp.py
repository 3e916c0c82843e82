"""The Gaussian process sampler is Optuna's, at a cost that the user sets."""

import optuna
import pytest
from optuna.samplers import GPSampler

from search.samplers import registry

WIDE = {"samples": 128, "candidates": 2048}
"""What Optuna itself takes."""


def proposals(sampler, objectives=3, flying=2):
    """Three points asked for after eight results, `flying` trials running."""
    study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    space = {name: optuna.distributions.FloatDistribution(0, 1) for name in "xyz"}
    for index in range(8):
        point = {name: (index * step % 8) / 8 for name, step in zip(space, (1, 3, 5), strict=True)}
        values = [point[name] + sum(point.values()) / 9 for name in "xyz"[:objectives]]
        study.add_trial(optuna.trial.create_trial(params=point, distributions=space, values=values))
    for index in range(flying):
        study.enqueue_trial(dict.fromkeys(space, 0.3 + 0.2 * index))
    asked = [study.ask(space) for _ in range(flying + 3)]
    return [trial.params for trial in asked[flying:]]


def test_with_the_numbers_of_optuna_it_is_the_sampler_of_optuna():
    ours = registry.build("gp", {"startup": 4, **WIDE}, seed=0, draw=5)
    assert proposals(ours) == proposals(GPSampler(seed=5, n_startup_trials=4))


@pytest.mark.parametrize("fewer", [{"samples": 2}, {"candidates": 16}])
def test_each_number_reaches_the_sampler(fewer):
    """They are set through attributes that Optuna does not promise to keep."""
    wide, narrow = (registry.build("gp", {"startup": 4, **WIDE, **more}, seed=0, draw=5)
                    for more in ({}, fewer))
    assert proposals(wide) != proposals(narrow)


def test_nothing_is_missing_that_would_slow_it_down():
    from optuna._gp.batched_lbfgsb import _greenlet_imports

    assert _greenlet_imports.is_successful()
