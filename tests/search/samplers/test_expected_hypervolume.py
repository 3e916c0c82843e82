"""Expected hypervolume improvement against BoTorch, a brute-force sample, and integrals done by scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import lognorm

from search.pareto.geometry import hypervolume
from search.samplers import expected_hypervolume
from search.samplers.expected_hypervolume import LogNormal, Normal, boxes, expected_improvement


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 12), st.integers(0, 999), st.booleans())
def test_boxes_are_disjoint_and_hold_what_no_member_dominates(k, count, seed, ties):
    rng = np.random.default_rng(seed)
    front = rng.uniform(size=(count, k))
    if ties:
        front = np.round(front * 4) / 4  # many equal coordinates, and rows on the reference
    cut = boxes(front, np.ones(k))
    lower, upper = cut.lower, cut.upper
    inside = np.prod(upper - np.maximum(lower, 0.0), axis=1).sum()
    assert inside == pytest.approx(1.0 - hypervolume(front, np.ones(k)), abs=1e-6)
    points = rng.uniform(size=(200, k))
    held = ((points[:, None] >= lower[None]) & (points[:, None] < upper[None])).all(axis=2).sum(axis=1)
    dominated = (front[None] <= points[:, None]).all(axis=2).any(axis=1)
    assert (held == ~dominated).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 12), st.integers(0, 999))
def test_what_is_better_than_the_ideal_is_in_no_box(k, count, seed):
    rng = np.random.default_rng(seed)
    # members beyond the ideal are noise
    front, ideal = rng.uniform(size=(count, k)), rng.uniform(-0.2, 0.4, size=k)
    cut = boxes(front, np.ones(k), ideal)
    lower, upper = cut.lower, cut.upper
    assert (lower >= ideal).all()
    clipped = np.maximum(front, ideal)
    whole, held = np.prod(1.0 - ideal), hypervolume(clipped, np.ones(k))
    assert np.prod(upper - lower, axis=1).sum() == pytest.approx(whole - held, abs=1e-6)
    inside, beyond = (Normal(np.full(1, ideal[0]), np.zeros(1)),
                      Normal(np.full(1, ideal[0] - 0.3), np.zeros(1)))
    others = [Normal(np.full(1, end), np.zeros(1)) for end in ideal[1:]]
    found, wanted = (expected_improvement([first, *others], cut) for first in (beyond, inside))
    assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("k", [2, 3])
def test_normal_predictions_agree_with_botorch(k):
    torch = pytest.importorskip("torch")
    pytest.importorskip("botorch")
    from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
    from botorch.utils.multi_objective.box_decompositions import NondominatedPartitioning

    rng = np.random.default_rng(k)
    front, reference = rng.uniform(size=(10, k)), np.full(k, 1.1)
    mean, sd = rng.uniform(size=(6, k)), rng.uniform(0.01, 0.4, size=(6, k))

    class Model(torch.nn.Module):
        num_outputs = k

        def posterior(self, x, posterior_transform=None):
            place = x[..., 0].long().view(-1)
            return type("Posterior", (), {"mean": torch.tensor(-mean)[place].unsqueeze(1),
                                          "variance": torch.tensor(sd**2)[place].unsqueeze(1)})

    oracle = ExpectedHypervolumeImprovement(
        Model(), torch.tensor(-reference),
        NondominatedPartitioning(torch.tensor(-reference), torch.tensor(-front)))
    found = expected_improvement([Normal(mean[:, axis], sd[:, axis]) for axis in range(k)],
                                 boxes(front, reference))
    assert (found
            == pytest.approx(oracle(torch.arange(6.0, dtype=torch.float64).view(6, 1, 1)).numpy(), rel=1e-6))


def test_four_axes_of_which_one_is_known_and_one_lognormal_agree_with_a_large_sample():
    rng = np.random.default_rng(0)
    front, reference = rng.uniform(size=(8, 4)), np.ones(4)
    mean, sd = np.array([0.3, 0.4, 0.2, np.log(30.0)]), np.array([0.2, 0.1, 0.0, 0.5])
    predicted = ([Normal(mean[[axis]], sd[[axis]]) for axis in range(3)]
                 + [LogNormal(mean[[3]], sd[[3]], 10.0, 60.0)])
    drawn = mean + sd * rng.standard_normal((20_000, 4))
    drawn[:, 3] = (np.exp(drawn[:, 3]) - 10.0) / 60.0
    cut = boxes(front, reference)
    lower, upper = cut.lower, cut.upper
    gains = np.prod(np.maximum(upper[None] - np.maximum(lower[None], drawn[:, None]), 0.0),
                    axis=2).sum(axis=1)
    for sample in drawn[:20]:  # the boxes tell the improvement of one certain point as the hypervolume does
        exact = hypervolume(np.vstack([front, sample]), reference) - hypervolume(front, reference)
        certain = expected_improvement([Normal(sample[[axis]], np.zeros(1)) for axis in range(4)],
                                       cut)
        assert certain == pytest.approx([exact], abs=1e-7)
    error = gains.std() / np.sqrt(len(gains))
    assert expected_improvement(predicted, cut) == pytest.approx([gains.mean()], abs=4 * error)


def test_a_lognormal_shortfall_is_its_integral():
    item = LogNormal(np.array([1.0, 3.0]), np.array([0.3, 0.8]), origin=2.0, scale=5.0)
    ends = np.array([-np.inf, -1.0, 0.1, 2.0])
    for row, mean, sd in zip(item.shortfall(ends), item.mean, item.sd, strict=True):
        for end, found in zip(ends, row, strict=True):
            top = end * 5.0 + 2.0
            spread = lognorm(s=sd, scale=np.exp(mean))
            wanted = (quad(lambda y, top=top, spread=spread: (top - y) * spread.pdf(y), 0, top)[0] / 5.0
                      if top > 0 else 0.0)
            assert found == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    assert item.middle == pytest.approx((np.exp([1.0, 3.0]) - 2.0) / 5.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(0, 30), st.integers(0, 999), st.floats(0.0, 0.3))
def test_of_many_pairs_those_that_matter_are_enough(k, count, seed, spread):
    rng = np.random.default_rng(seed)
    cut = boxes(rng.uniform(size=(count, k)), np.ones(k), -0.1)
    mean, sd = rng.uniform(-0.2, 1.2, size=(40, k)), spread * rng.uniform(size=(40, k))
    predicted = [Normal(mean[:, axis], sd[:, axis]) for axis in range(k - 1)]
    predicted.append(LogNormal(np.log(10 + 60 * np.maximum(mean[:, -1], 0)), sd[:, -1], 10.0, 60.0))
    whole = expected_improvement(predicted, cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expected_hypervolume, "PAIRS", -1)
        assert expected_improvement(predicted, cut) == pytest.approx(whole, rel=1e-9, abs=1e-9)
