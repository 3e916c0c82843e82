"""The token-weight slot: every preset's formula, and the settings under which GPTQ must not notice it."""

import pytest
import torch
from calibration_problems import assert_same_bits, counted, inputs, problem

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.quantization.post_training.gptq import GPTQ, GptqParams
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.token_weights import Tokens, attention_received, position_prior
from trainable.registry import Registry

MODULE = "trainable.quantization.post_training.token_weights"
WEIGHTS = Registry("token weight", {
    "uniform": f"{MODULE}:UniformWeight",
    "cgq_survey": f"{MODULE}:CgqSurvey",
    "cgq_thirdparty": f"{MODULE}:CgqThirdParty",
    "fair": f"{MODULE}:FairWeight",
    "rsq": f"{MODULE}:RsqWeight",
})
B, L = 6, 16


def build(name, **params):
    return WEIGHTS.build(PluginRef(name=name, **params))


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    masked, confidence, attention = torch.rand(3, B, L, generator=generator)
    return Tokens(masked < 0.5, confidence, attention, prior=torch.rand(L, generator=generator) + 0.1)


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_every_preset_weighs_every_token(name, tokens):
    weight = WEIGHTS.build_default(name)
    found = weight.weights(tokens)
    assert found.shape == (B, L) and found.dtype == torch.double
    assert (found >= 0).all() and (found <= 1).all() and found.sum() > 0
    assert type(weight).name == name and type(weight).__doc__


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_what_a_preset_needs_and_lacks_is_named_in_one_line(name, tokens):
    weight = WEIGHTS.build_default(name)
    for field in weight.needs:
        with pytest.raises(UserError, match=f"token weight {name!r} needs the {field}"):
            weight.weights(tokens._replace(**{field: None}))
        with pytest.raises(ValueError, match=f"{field} of shape"):
            weight.weights(tokens._replace(**{field: getattr(tokens, field)[..., :-1]}))


def test_survey_weights_are_the_square_of_omega_and_root_confidence(tokens):
    found = build("cgq_survey").weights(tokens)
    conf = tokens.confidence.double()
    masked = (1 + conf.sqrt()) ** 2 / 4
    assert torch.allclose(found[tokens.masked], masked[tokens.masked], rtol=1e-12)
    assert torch.allclose(found[~tokens.masked], torch.tensor((0.7 + 1) ** 2 / 4).double())


def test_third_party_weights_are_one_half_plus_confidence_where_masked(tokens):
    found = build("cgq_thirdparty").weights(tokens)
    expected = torch.where(tokens.masked, 0.5 + tokens.confidence.double(), 0.5) / 1.5
    assert torch.allclose(found, expected, rtol=1e-12)


def test_rsq_is_linear_in_attention_within_each_text_then_squared(tokens):
    found = build("rsq", least=0.2).weights(tokens)
    received = tokens.attention.double()
    low, high = received.min(1, keepdim=True).values, received.max(1, keepdim=True).values
    assert torch.allclose(found, (0.2 + 0.8 * (received - low) / (high - low)) ** 2, rtol=1e-12)
    assert found.min() == pytest.approx(0.04) and found.max() == 1
    flat = build("rsq").weights(tokens._replace(attention=torch.ones(B, L)))
    assert torch.equal(flat, torch.ones(B, L).double())  # attention without a spread divides by nothing


UNIFORM_SETTINGS = {
    "uniform": ("uniform", {}, {}),
    "cgq_survey without confidence": ("cgq_survey", {"power": 0.0, "seen": 0.7, "masked": 0.7}, {}),
    "cgq_thirdparty without slope": ("cgq_thirdparty", {"slope": 0.0, "base": 0.3}, {}),
    "fair with a flat prior": ("fair", {}, {"prior": torch.full((L,), 0.37)}),
    "rsq from 1 to 1": ("rsq", {"least": 1.0}, {}),
}


@pytest.mark.parametrize("setting", UNIFORM_SETTINGS)
def test_uniform_weights_give_gptq_bit_for_bit(setting, tokens):
    name, params, fields = UNIFORM_SETTINGS[setting]
    weights = build(name, **params).weights(tokens._replace(**fields))
    x = inputs(B * L, 32)
    weight = problem(16, 32)[0]
    plain, ours = counted(x), counted(x, weights.flatten())
    assert torch.equal(plain.second_moment, ours.second_moment)
    method = GPTQ(GptqParams(bits=3))
    first, second = (quantize(method, weight, statistics) for statistics in (plain, ours))
    assert_same_bits(first.encoded.codes, second.encoded.codes)
    assert_same_bits(first.weight, second.weight)


@pytest.mark.parametrize("name", ["cgq_survey", "cgq_thirdparty", "rsq"])
def test_real_weights_move_the_error_to_tokens_that_count_less(name, tokens):
    """On heavily weighted tokens alone, weighted GPTQ must lose less than plain GPTQ does."""
    generator = torch.Generator().manual_seed(5)
    x = torch.cat([inputs(300, 32, 1), inputs(300, 32, 2)])  # two kinds of tokens with different correlations
    heavy = torch.arange(600) < 300
    extreme = Tokens(masked=heavy[None], confidence=torch.where(heavy, 0.99, 0.0)[None],
                     attention=torch.where(heavy, 1.0, 0.0)[None])
    params = {"seen": 0.0} if name == "cgq_survey" else {"base": 0.05} if name == "cgq_thirdparty" else {}
    weights = build(name, **params).weights(extreme).flatten()
    weight = torch.randn(64, 32, generator=generator) * 0.1
    method = GPTQ(GptqParams(bits=3))
    lost = []
    for each in (None, weights):
        found = quantize(method, weight, counted(x, each)).effective
        lost.append(float((x[:300].double() @ (found - weight).double().T).square().sum()))
    assert lost[1] < lost[0]


class TestAttentionReceived:
    def test_it_is_the_mean_over_heads_and_queries(self):
        probabilities = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
        found = attention_received(probabilities)
        assert torch.allclose(found, probabilities.double().mean((1, 2))) and found.shape == (2, 7)
        assert torch.allclose(attention_received(probabilities, torch.ones(2, 5)), found)

    def test_queries_can_be_left_out(self):
        probabilities = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
        weights = torch.tensor([1.0, 0, 0, 1, 0]).expand(2, 5)
        expected = probabilities[:, :, [0, 3]].double().mean((1, 2))
        assert torch.allclose(attention_received(probabilities, weights), expected)


class TestPositionPrior:
    def rollout(self):
        """One roll-out of three steps: position 0 is given, 1 is committed first, then 2, then 3."""
        committed = torch.tensor([[-1, 0, 1, 2]])
        masked = torch.tensor([[[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]]).bool()
        confidence = torch.tensor([[[0.9, 0.6, 0.2, 0.2], [0.9, 0.9, 0.3, 0.1], [0.9, 0.9, 0.9, 0.4]]])
        return committed, confidence, masked

    def test_commits_and_confidence_add_up(self):
        prior = position_prior(*self.rollout(), frontier=1.0, reliability=2.0, early=0.5, floor=0.0)
        hits = torch.tensor([0, 1.5, 1.25, 1.0]).double()
        certain = torch.tensor([0, 0.6, 0.2 + 0.75, 0.2 + 0.25 + 1.0]).double()
        expected = hits + 2 * certain
        assert torch.allclose(prior, expected / expected.mean(), rtol=1e-6)

    def test_early_commits_weigh_more_and_no_position_nothing(self):
        prior = position_prior(*self.rollout(), reliability=0.0, floor=0.05)
        assert prior[1] > prior[2] > prior[3] > prior[0] > 0 and prior.mean() == pytest.approx(1)

    def test_rollouts_that_do_not_fit_are_refused(self):
        committed, confidence, masked = self.rollout()
        with pytest.raises(ValueError, match="confidence"):
            position_prior(committed, confidence[:, :2], masked)
        with pytest.raises(UserError, match="no roll-out committed"):
            position_prior(torch.full_like(committed, -1), confidence, torch.zeros_like(masked))
        with pytest.raises(UserError, match="prior of positions holds"):
            build("fair").weights(Tokens(masked=torch.ones(1, 4).bool(), prior=torch.zeros(4)))
