"""The conformal sampler's parts, and that bounds reach every sampler that can use them."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.samplers.cqr import LEVELS, conformalized, encoded, uniform
from search.study.searcher import StudySearcher
from spaces.dimensions import Dimension
from spaces.objectives import Constraint, Objective

SPACE = {"x": Dimension(**{"float": [0.0, 1.0]}), "kind": Dimension(choice=["a", "b"])}


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_corrected_quantiles_cover_what_they_claim_though_the_predicted_ones_do_not(scale):
    """Predictions for a spread that is `scale` times the true one; coverage is counted on
    results never seen."""
    rng = np.random.default_rng(0)
    from scipy.stats import norm

    predicted = np.tile(scale * norm.ppf(LEVELS), (500, 1))
    truth, fresh = rng.standard_normal(500), rng.standard_normal(20_000)
    fixed = conformalized(predicted[:1], predicted, truth)[0]
    claimed = LEVELS[-1] - LEVELS[0]
    assert np.mean((fresh >= fixed[0]) & (fresh <= fixed[-1])) == pytest.approx(claimed, abs=0.05)
    missed = np.mean((fresh >= predicted[0, 0]) & (fresh <= predicted[0, -1])) - claimed
    assert scale == 1.0 or abs(missed) > 0.15, "without the correction they miss"


def test_points_are_encoded_on_one_scale_with_a_mark_for_what_is_not_active():
    space = {"log": FloatDistribution(1e-4, 1.0, log=True), "q": CategoricalDistribution(("a", "b")),
             "n": IntDistribution(0, 8)}
    assert encoded({"log": 1e-2, "q": "b", "n": 4}, space, True) == pytest.approx([0.5, 0, 1, 0.5, 1])
    assert encoded({"q": "a"}, space, False) == [-1.0, 1, 0, -1.0, 0]


@pytest.mark.parametrize("spread", [FloatDistribution(1e-4, 1.0, log=True), IntDistribution(0, 8, step=4),
                                    IntDistribution(1, 64, log=True), CategoricalDistribution(("a", "b"))])
def test_uniform_draws_are_legal_and_reach_every_part(spread):
    rng = np.random.default_rng(0)
    drawn = [uniform(spread, rng) for _ in range(200)]
    assert all(spread._contains(spread.to_internal_repr(value)) for value in drawn)
    inside = [spread.to_internal_repr(value) for value in drawn]
    assert len(set(inside)) >= min(2, 200) and np.ptp(np.log(np.abs(inside) + 1e-9)) > 0.5


def search(sampler, constraints, trials=40):
    """Where the last third of the proposals lies when a large x is better, and a bound wants it small."""
    searcher = StudySearcher(SPACE, [Objective("loss", "minimize"), Objective("flat", "minimize")],
                             constraints, sampler=sampler, seed=2,
                             sampler_options={"trees": 4} if sampler == "cqr" else {})
    found = []
    for _ in range(trials):
        proposal = searcher.ask()
        x = proposal.values["x"]
        found.append(x)
        searcher.tell(proposal.number, "complete",
                      {"loss": 1.0 - x, "flat": 0.0 if proposal.values["kind"] == "a" else 0.1, "load": x})
    return np.mean(np.array(found[-15:]) > 0.5)


@pytest.mark.parametrize("sampler", ["tpe", "cqr"])
def test_a_bound_reaches_the_sampler(sampler):
    free, bound = search(sampler, []), search(sampler, [Constraint("load", "<=", 0.4)])
    assert bound <= free - 0.25, (free, bound)
