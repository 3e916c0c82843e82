"""Rules of filling in, each against its own definition."""

import pytest
import torch
from masked_models import build, drawing, sentences, tiny
from pydantic import ValidationError

from trainable.diffusion.masked.samplers.base import Step
from trainable.registry import MASKED_SAMPLERS


def step(scores, left=1, steps=1, open_=None):
    scores = torch.tensor(scores, dtype=torch.float64)
    open_ = torch.ones_like(scores, dtype=torch.bool) if open_ is None else torch.tensor(open_)
    many = torch.full((len(scores),), left)
    return Step(open_, many, steps, torch.arange(len(scores)), 1, scores)


@pytest.mark.parametrize("name", list(MASKED_SAMPLERS))
def test_a_sampler_says_what_it_is_and_what_its_settings_mean(name):
    cls = MASKED_SAMPLERS.get(name)
    assert cls.__doc__.count(".") >= 1 and "\n\n" not in cls.__doc__.strip()
    assert all(field.description for field in cls.Params.model_fields.values())
    with pytest.raises(ValidationError):
        cls.Params(unheard_of=1)
    with pytest.raises(ValidationError):
        cls.Params().ends = "free"


@pytest.mark.parametrize("masked, steps", [(10, 4), (17, 16), (3, 8), (8, 8), (5, 1)])
def test_quota_commits_base_and_one_more_while_there_is_a_remainder(masked, steps):
    """LLaDA's get_num_transfer_tokens: masked // steps each, one more in the first masked % steps
    steps; never none."""
    quota, left, counts = build("quota"), masked, []
    for i in range(steps):
        if left:
            open_ = [[True] * left + [False] * (masked - left)]
            counts.append(int(quota.choose(step([[0.5] * masked], steps - i, steps, open_)).sum()))
            left -= counts[-1]
    base, more = divmod(masked, steps)
    assert counts == [count for i in range(steps) if (count := base + (i < more))]


def test_quota_takes_the_surest_and_each_row_counts_for_itself():
    scores = [[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]]
    open_ = [[True, True, True, True], [True, False, True, False]]
    chosen = build("quota").choose(step(scores, 2, 2, open_))
    assert chosen.tolist() == [[False, True, False, True], [True, False, False, False]]
    cosine = build("quota", schedule="cosine")
    assert [int(cosine.choose(step([[0.5] * 100], left, 10)).sum()) for left in (10, 5, 1)] == [1, 17, 100]


def test_a_set_temperature_draws_the_set_by_softmax_of_the_scores():
    scores = torch.tensor([0.9, 0.5, 0.1, 0.4]).double().expand(20_000, 4)
    one = Step(torch.ones_like(scores, dtype=torch.bool), torch.full((20_000,), 4), 4,
               torch.arange(20_000) * 977, 1, scores)
    chosen = build("quota", set_temperature=0.5).choose(one)
    assert (chosen.sum(1) == 1).all()
    assert torch.allclose(chosen.double().mean(0), (scores[0] / 0.5).softmax(0), atol=0.015)
    assert torch.equal(build("quota").choose(one), scores > 0.8)


def test_threshold_takes_all_that_reach_it_and_at_least_one():
    scores = [[0.95, 0.2, 0.9, 0.89], [0.3, 0.2, 0.1, 0.25]]
    chosen = build("threshold", threshold=0.9).choose(step(scores, 9, 9))
    assert chosen.tolist() == [[True, False, True, False], [True, False, False, False]]


def test_adaptive_rules_finish_in_time_all_the_same():
    scores = [[0.3, 0.2, 0.1, 0.25]]
    for name, params in (("threshold", {"threshold": 0.99}), ("factor", {"factor": 0.01})):
        assert ([int(build(name, **params).choose(step(scores, left, 4)).sum()) for left in (4, 2, 1)]
                == [1, 2, 4])


def test_factor_takes_the_longest_prefix_of_ranks():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(50, 8, generator=generator).double() ** 0.3
    chosen = build("factor", factor=0.8).choose(step(scores.tolist(), 8, 8))
    for row, taken in zip(scores.tolist(), chosen.tolist(), strict=True):
        ranked = sorted(row, reverse=True)
        count = 1
        while count < 8 and ranked[count] >= 1 - 0.8 / (count + 2):
            count += 1
        # the first is always taken, and a prefix must hold from its first rank on
        count = count if ranked[0] >= 1 - 0.8 / 2 else 1
        assert [score >= ranked[count - 1] for score in row] == taken


def test_entropy_bound_takes_the_prefix_whose_other_entropies_sum_to_the_bound():
    scores = [[-0.1, -0.5, -0.05, -2.0]]  # entropies .05 .1 .5 2: sums of all smaller ones 0 .05 .15 .65
    for bound, taken in ((0.0, 1), (0.049, 1), (0.06, 2), (0.2, 3), (0.7, 4)):
        chosen = build("entropy_bound", bound=bound).choose(step(scores, 9, 9))
        assert int(chosen.sum()) == taken
    assert build("entropy_bound").choose(step(scores, 9, 9, [[False, True, False, True]])).tolist() == [
        [False, True, False, True]]


def test_entropy_bound_goes_from_one_token_a_pass_to_one_pass():
    model, length = tiny(), 12
    for bound, most in ((0.0, None), (1e9, 2)):
        found = drawing(model, "entropy_bound", 99, bound=bound).generate(30, length,
                                                                          torch.Generator().manual_seed(0))
        words = (found.ids >= 4).sum(1) + (found.ids == 2).sum(1)
        expected = words + 1 if most is None else words.clamp(max=1) + 1  # one pass more for the place of END
        assert torch.equal(found.passes, expected)


def test_ancestral_steps_fill_each_position_at_a_uniform_time():
    ancestral, rows = build("ancestral"), 4000
    masked, when = torch.ones(rows, 3, dtype=torch.bool), torch.zeros(rows, 3)
    for left in range(5, 0, -1):
        state = Step(masked, torch.full((rows,), left), 5, torch.arange(rows) * 7919, 6 - left)
        chosen = ancestral.plan(state)
        when[chosen] = left
        masked = masked & ~chosen
    assert not masked.any()
    assert torch.allclose(torch.histc(when, 5, 1, 5) / when.numel(), torch.full((5,), 0.2), atol=0.012)


@pytest.mark.parametrize("strategy", ["cap", "rescale", "confidence"])
def test_remdm_without_eta_is_ancestral_sampling_bit_for_bit(strategy):
    model = tiny()
    plain, none = (sampling.generate(20, 12, torch.Generator().manual_seed(0)) for sampling in
                   (drawing(model, "ancestral", 9), drawing(model, "remdm", 9, eta=0.0, strategy=strategy)))
    assert torch.equal(plain.ids, none.ids) and torch.equal(plain.passes, none.passes)


@pytest.mark.parametrize("strategy", ["cap", "rescale", "confidence", "loop"])
def test_remdm_hides_seen_tokens_as_often_as_it_says_and_never_fixed_ones(strategy):
    rows, length = 3000, 10
    remdm = build("remdm", eta=0.1, strategy=strategy, t_on=0.6, t_off=0.1)
    open_ = torch.zeros(rows, length, dtype=torch.bool)
    open_[:, 5:] = True
    fixed = torch.zeros_like(open_)
    fixed[:, 0] = True
    left = torch.full((rows,), 5)  # of 10: t = 0.5, s = 0.4
    state = Step(open_, left, 10, torch.arange(rows) * 977, 1, fixed=fixed,
                 sureness=torch.full((rows, length), 0.5))
    again = remdm.remask(state)
    assert not again[:, 0].any() and not again[:, 5:].any()
    sigma_max = min(1.0, 0.4 / 0.5)
    expected = {"cap": 0.1, "rescale": 0.1 * sigma_max, "confidence": sigma_max / 4, "loop": 0.1}[strategy]
    assert float(again[:, 1:5].double().mean()) == pytest.approx(expected, abs=0.01)
    alpha_t, alpha_s = (0.5, 0.6) if strategy != "loop" else (0.9, 0.9)
    sigma = 0.0 if strategy == "confidence" else expected
    fills = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    assert float(remdm.plan(state)[:, 5:].double().mean()) == pytest.approx(fills, abs=0.012)


def test_remdm_hides_the_unsure_rather():
    sureness = torch.tensor([[0.99, 0.01, 0.99, 0.99]]).expand(5000, 4)
    open_ = torch.zeros(5000, 4, dtype=torch.bool)
    state = Step(open_, torch.full((5000,), 5), 10, torch.arange(5000) * 31, 1, fixed=open_,
                 sureness=sureness)
    rates = build("remdm", strategy="confidence").remask(state).double().mean(0)
    expected = (-sureness[0].double()).softmax(0) * 0.8
    assert torch.allclose(rates, expected, atol=0.02)


def test_remdm_samples_the_law_of_its_model():
    """With many small steps, hiding and filling again leaves the law of the rows as it is."""
    law = sentences(9, 6, 3)
    found = drawing(law, "remdm", 40, eta=0.05).sample(4000, 6, torch.Generator().manual_seed(0))
    share = (found[:, None] == law.rows).all(2).double().mean(0)
    assert float((share - law.chances).abs().sum()) / 2 < 0.04
