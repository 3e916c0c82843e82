"""AWQ and SmoothQuant: limits of their exponents, their formulas computed apart, what they promise."""

import pytest
import torch
from calibration_problems import assert_same_bits, counted, inputs, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.quantization.post_training.awq import AWQ, EXPONENTS, AwqParams, channel_scale
from trainable.quantization.post_training.grid import GridParams
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.rtn import RoundToNearest
from trainable.quantization.post_training.smoothquant import SmoothQuant, SmoothQuantParams, smoothing_scale
from trainable.quantization.post_training.statistics import ABSOLUTE_MEAN, output_error


class TestAwq:
    def test_exponent_zero_is_plain_rounding_bit_for_bit(self):
        weight, statistics, _ = problem(24, 32)
        plain = quantize(RoundToNearest(GridParams(bits=3)), weight)
        done = quantize(AWQ(AwqParams(bits=3, exponent=0.0)), weight, statistics)
        assert_same_bits(done.weight, plain.weight)
        assert_same_bits(done.effective, plain.weight)
        assert_same_bits(done.encoded.codes, plain.encoded.codes)

    def test_scales_follow_the_formula(self):
        mean = torch.tensor([0.25, 1.0, 4.0, 16.0])
        scale = channel_scale(mean, 0.5)
        assert torch.allclose(scale, torch.tensor([0.5, 1.0, 2.0, 4.0]) / 2**0.5)
        assert torch.isfinite(channel_scale(torch.tensor([0.0, 1.0]), 0.95)).all()

    @given(seed=st.integers(0, 1000), bits=st.integers(2, 5))
    @settings(max_examples=12, deadline=None)
    def test_the_search_never_loses_to_plain_rounding(self, seed, bits):
        weight, statistics, _ = problem(16, 32, seed)
        plain, done = (quantize(method, weight, statistics) for method in (
            RoundToNearest(GridParams(bits=bits)), AWQ(AwqParams(bits=bits))))
        lost = [float(output_error(weight, each.effective, statistics.second_moment).sum())
                for each in (done, plain)]
        assert lost[0] <= lost[1] * (1 + 1e-4)

    def test_the_search_finds_the_exponent_that_loses_least(self):
        weight, statistics, x = problem(48, 64)
        lost = []
        for exponent in EXPONENTS:
            found = quantize(AWQ(AwqParams(bits=3, exponent=exponent)), weight, statistics).effective
            lost.append(float((x.double() @ (found - weight).double().T).square().sum()))
        searched = quantize(AWQ(AwqParams(bits=3)), weight, statistics).effective
        found = float((x.double() @ (searched - weight).double().T).square().sum())
        assert found == pytest.approx(min(lost), rel=1e-3)
        assert min(lost) < 0.8 * lost[0]  # there are outlier channels to protect

    def test_a_given_exponent_needs_no_second_moment(self):
        weight, _, x = problem(8, 32)
        assert AWQ(AwqParams(exponent=0.5)).needs == {ABSOLUTE_MEAN}
        quantize(AWQ(AwqParams(exponent=0.5)), weight, counted(x, needs={ABSOLUTE_MEAN}))


def test_scales_of_inputs_are_counted_as_stored():
    weight, statistics, _ = problem(16, 32)
    done = quantize(AWQ(AwqParams()), weight, statistics)
    assert done.bytes == done.encoded.bytes + 4 * 32
    assert quantize(RoundToNearest(GridParams()), weight).bytes == done.encoded.bytes


class TestSmoothQuant:
    @pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.8, 1.0])
    def test_scales_are_those_of_torchao(self, alpha):
        """Its observer gives (max|x| + eps)^a / (max|w| + eps)^(1 - a), eps of float32; here in numpy's
        float64."""
        weight, statistics, x = problem(24, 32)
        eps = 2.0**-23
        top_x, top_w = x.double().abs().numpy().max(0), weight.double().abs().numpy().max(0)
        expected = torch.from_numpy((top_x + eps) ** alpha / (top_w + eps) ** (1 - alpha))
        found = smoothing_scale(statistics.absolute_maximum, weight, alpha).double()
        assert ((found - expected) / expected).abs().max() <= 1e-4

    def test_at_zero_the_weight_and_at_one_the_inputs_are_evened_out(self):
        weight, statistics, x = problem(24, 32)
        flat, (scale,) = SmoothQuant(SmoothQuantParams(alpha=0.0)).transform(weight, statistics)
        assert torch.allclose(flat.abs().amax(0), torch.ones(32), rtol=1e-5)
        _, (scale,) = SmoothQuant(SmoothQuantParams(alpha=1.0)).transform(weight, statistics)
        assert torch.allclose(scale.inputs(x).abs().amax(0), torch.ones(32), rtol=1e-5)

    def test_at_one_half_both_reach_the_same(self):
        weight, statistics, x = problem(24, 32)
        changed, (scale,) = SmoothQuant(SmoothQuantParams()).transform(weight, statistics)
        assert torch.allclose(changed.abs().amax(0), scale.inputs(x).abs().amax(0), rtol=1e-4)

    def test_silent_channels_are_left_as_they_are(self):
        weight, _, _ = problem(8, 32)
        weight[:, 4] = 0
        x = inputs(100, 32)
        x[:, 9] = 0
        scale = smoothing_scale(counted(x).absolute_maximum, weight, 0.5)
        assert scale[4] == 1 and scale[9] == 1 and (scale[:4] != 1).all()
