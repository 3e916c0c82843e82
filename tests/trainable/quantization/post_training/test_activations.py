"""Rounding of activations, ranges by state and interval, and interaction-aware scales of attention values."""

import pytest
import torch
from calibration_problems import assert_same_bits, counted, inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.errors import UserError
from trainable.quantization.post_training.activations import (
    RATIOS,
    ActivationParams,
    ActivationQuantizer,
    best_ratios,
    state_ratios,
)
from trainable.quantization.post_training.ia_aq import IaAqParams, InteractionAware
from trainable.quantization.post_training.statistics import Statistics

STATIC = {"range": "static"}


def quantizer(**params):
    return ActivationQuantizer(ActivationParams(**params))


class TestDynamic:
    @given(seed=st.integers(0, 500), bits=st.sampled_from([4, 8]), symmetric=st.booleans())
    @settings(max_examples=20, deadline=None)
    def test_error_is_at_most_half_a_level_of_the_tokens_range(self, seed, bits, symmetric):
        x = inputs(20, 16, seed)
        method = quantizer(bits=bits, symmetric=symmetric)
        codes = method.encode(x)
        assert codes.codes.dtype == torch.uint8 and codes.codes.max() <= method.top
        assert ((codes.values() - x).abs() <= 0.5001 * codes.scale).all()
        assert_same_bits(codes.values(), method.fake_quantize(x))

    def test_a_token_does_not_depend_on_its_neighbors(self):
        x = inputs(20, 16)
        method = quantizer(bits=4)
        assert_same_bits(method.fake_quantize(x)[3:4], method.fake_quantize(x[3:4]))
        assert_same_bits(method.fake_quantize(x.view(4, 5, 16)).view(20, 16), method.fake_quantize(x))

    def test_zero_is_kept_and_tokens_without_values_are_harmless(self):
        x = inputs(10, 16).abs() + 3  # a range that does not reach zero is widened to it
        x[:, 0] = 0
        x[5] = 0
        for symmetric in (False, True):
            out = quantizer(bits=4, symmetric=symmetric).fake_quantize(x)
            assert (out[:, 0] == 0).all() and (out[5] == 0).all() and torch.isfinite(out).all()

    def test_sixteen_bits_leave_inputs_as_they_are(self):
        x = inputs(10, 16)
        assert quantizer(bits=16).fake_quantize(x) is x
        with pytest.raises(ValueError, match="16 bits have no codes"):
            quantizer(bits=16).encode(x)

    def test_dtype_is_kept(self):
        assert quantizer(bits=8).fake_quantize(inputs(4, 16).bfloat16()).dtype == torch.bfloat16

    def test_clipping_cuts_the_range(self):
        x = inputs(10, 16)
        method = quantizer(bits=8, symmetric=True, clip=0.5)
        assert torch.allclose(method.fake_quantize(x).abs().amax(1), x.abs().amax(1) / 2, rtol=1e-5)


class TestStatic:
    def test_the_maximum_holds_every_value(self):
        x = inputs(200, 16)
        low, high = quantizer(bits=8, **STATIC, static_by="maximum").static_range(counted(x))
        assert low <= x.min() < low * (1 - 1 / 31) and high * (1 - 1 / 31) < x.max() <= high

    def test_a_quantile_holds_its_share_of_each_sign(self):
        x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
        low, high = quantizer(bits=8, **STATIC, static_by="quantile", quantile=0.99).static_range(counted(x))
        for values, end in ((x[x > 0], high), (-x[x < 0], -low)):
            assert 0.99 <= float((values <= end).float().mean()) <= 0.9925

    def test_by_error_it_loses_no_more_than_the_whole_range(self):
        x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))  # few values in the outer levels
        lost = {}
        for rule in ("maximum", "error"):
            method = quantizer(bits=4, **STATIC, static_by=rule)
            lost[rule] = float((method.fake_quantize(x, method.static_range(counted(x))) - x).square().sum())
        assert lost["error"] < 0.8 * lost["maximum"]

    def test_inputs_of_one_sign_get_all_levels(self):
        x = inputs(50, 16).abs()
        low, high = quantizer(bits=4, **STATIC, static_by="maximum").static_range(counted(x))
        assert low == 0 and high >= x.max()

    def test_a_range_is_needed(self):
        with pytest.raises(ValueError, match="static activations need the range"):
            quantizer(bits=8, **STATIC).encode(inputs(4, 16))
        with pytest.raises(UserError, match="static activations need statistics: histogram"):
            quantizer(bits=8, **STATIC).static_range(counted(inputs(4, 16), needs={"absolute mean"}))
        with pytest.raises(UserError, match="empty"):
            quantizer(bits=8, **STATIC).static_range(Statistics(16, {"histogram"}))


class TestStates:
    def states(self):
        """Bell-shaped masked tokens, whose outer levels would hold few values, and evenly spread seen
        ones."""
        generator = torch.Generator().manual_seed(0)
        masked = torch.arange(60) % 2 == 0
        x = torch.rand(60, 1024, generator=generator) * 2 - 1
        return torch.where(masked[:, None], torch.randn(60, 1024, generator=generator), x), masked

    def test_each_state_gets_its_own_ratio(self):
        x, masked = self.states()
        method = quantizer(bits=4)
        seen, cut = best_ratios(method.clip_errors(x, masked))
        assert seen >= 0.96 and 0.95 > cut >= min(RATIOS)
        plain = method.fake_quantize(x)
        ours = method.fake_quantize(x, method.token_range(x, state_ratios(masked, (seen, cut))))
        for state in (masked, ~masked):
            assert (ours - x)[state].square().sum() <= (plain - x)[state].square().sum() * (1 + 1e-6)
        assert (ours - x)[masked].square().sum() < 0.8 * (plain - x)[masked].square().sum()

    def test_errors_of_batches_add_up_and_can_be_those_of_outputs(self):
        x, masked = self.states()
        weight = torch.randn(8, 1024, generator=torch.Generator().manual_seed(1))
        method = quantizer(bits=4)
        whole = method.clip_errors(x, masked, weight)
        parts = [method.clip_errors(x[rows], masked[rows], weight)
                 for rows in (slice(0, 25), slice(25, None))]
        assert torch.allclose(sum(parts), whole) and best_ratios(parts) == best_ratios(whole)
        lost = (method.fake_quantize(x) - x) @ weight.T
        assert whole[1, 0] == pytest.approx(float(lost[masked].double().square().sum()), rel=1e-5)

    def test_equal_ratios_are_plain_clipping(self):
        x, masked = self.states()
        method = quantizer(bits=4, clip=0.9)
        assert_same_bits(method.fake_quantize(x, method.token_range(x, state_ratios(masked, (0.9, 0.9)))),
                         method.fake_quantize(x))


class TestInteractionAware:
    def values(self):
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(3, 20, 8, generator=generator) ** 3
        probabilities = (torch.randn(3, 2, 20, 20, generator=generator) * 3).softmax(-1)
        return values, probabilities

    def test_uniform_importance_is_the_plain_search(self):
        values, _ = self.values()
        method = InteractionAware(IaAqParams())
        scales = method.fit(values, torch.ones(3, 20))
        flat = values.view(-1, 8).double().numpy()
        for feature in range(8):
            column, lost = flat[:, feature], []
            for ratio in torch.linspace(1.0, 0.05, 40).double().numpy():
                step = abs(column).max() * ratio / 7
                lost.append((((column / step).round().clip(-7, 7) * step - column) ** 2).sum())
            found = scales.fake_quantize(values)[..., feature].double() - values[..., feature].double()
            assert float(found.square().sum()) == pytest.approx(min(lost), rel=1e-5)

    def test_it_favors_what_is_attended_to(self):
        values, probabilities = self.values()
        method = InteractionAware(IaAqParams())
        importance = method.importance(probabilities)
        ours, plain = method.fit(values, importance), method.fit(values, torch.ones(3, 20))
        lost = [float((importance[..., None] * (each.fake_quantize(values) - values).square()).sum())
                for each in (ours, plain)]
        assert lost[0] <= lost[1] and not torch.equal(ours.scale, plain.scale)

    def test_importance_has_mean_one_and_a_floor(self):
        _, probabilities = self.values()
        probabilities[..., 7] = 0  # a token that nobody attends to
        found = InteractionAware(IaAqParams()).importance(probabilities)
        assert torch.allclose(found.mean(1), torch.ones(3).double()) and 0 < found[0, 7] < 2e-4

    def test_batches_add_up(self):
        values, probabilities = self.values()
        method = InteractionAware(IaAqParams(bits=8))
        importance, largest = method.importance(probabilities), values.view(-1, 8).abs().amax(0)
        parts = [method.errors(values[b], importance[b], largest) for b in range(3)]
        assert torch.equal(method.best(sum(parts), largest).scale, method.fit(values, importance).scale)

    def test_decided_queries_can_count_less(self):
        _, probabilities = self.values()
        masked = torch.rand(3, 20, generator=torch.Generator().manual_seed(4)) < 0.5
        method = InteractionAware(IaAqParams(decided_queries=0.0))
        received = (probabilities.double().mean(1) * masked[..., None]).sum(1)
        expected = received / received.mean(1, keepdim=True) + 1e-4
        expected = expected / expected.mean(1, keepdim=True)
        assert torch.allclose(method.importance(probabilities, masked), expected)
        with pytest.raises(UserError, match="no query"):
            method.importance(probabilities, torch.zeros_like(masked))

    def test_per_token_scales_and_bad_values_are_refused_in_one_line(self):
        with pytest.raises(UserError, match="a scale per token leaves nothing.*legal: scales: feature"):
            InteractionAware(IaAqParams(scales="token"))
        values, _ = self.values()
        values[0, 0, 0] = torch.nan
        with pytest.raises(UserError, match="NaN or infinity"):
            InteractionAware(IaAqParams()).fit(values, torch.ones(3, 20))
        with pytest.raises(ValueError, match="59 weights for 60 values"):
            InteractionAware(IaAqParams()).errors(values, torch.ones(59), torch.ones(8))
