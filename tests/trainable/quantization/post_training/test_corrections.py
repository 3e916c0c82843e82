"""Corrections: TAC folded into the output projection, softmax bias, scales by interval of the noise level."""

import math

import pytest
import torch
from calibration_problems import assert_same_bits, counted, inputs, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.errors import UserError
from trainable.quantization.post_training.grid import GridParams
from trainable.quantization.post_training.interval_scales import IntervalScaleParams, fit_interval_scales
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.rtn import RoundToNearest
from trainable.quantization.post_training.softmax_bias import BiasSums, SoftmaxBiasParams
from trainable.quantization.post_training.statistics import Statistics, output_error
from trainable.quantization.post_training.tac import TAC, PairedMoments, TacParams


def pairs(seed: int = 0, tokens: int = 300, width: int = 32, constant: bool = False):
    """Full-precision outputs and ones of a quantized model: scaled, shifted, mixed and noisy."""
    generator = torch.Generator().manual_seed(seed)
    full = inputs(tokens, width, seed, outliers=3.0)
    mixing = torch.eye(width) + 0.1 * torch.randn(width, width, generator=generator)
    quantized = full @ mixing * 0.9 + 0.05 + 0.1 * torch.randn(tokens, width, generator=generator)
    if constant:
        quantized[:, 3] = 0.25  # a channel that says nothing makes the moments singular
    return full, quantized


def moments(full, quantized, block=16) -> PairedMoments:
    found = PairedMoments(full.shape[1], block)
    found.add(quantized, full)
    return found


def lost(correction, full, quantized) -> float:
    return float((correction.apply(quantized.double()) - full.double()).square().sum(1).mean())


class TestTac:
    @given(seed=st.integers(0, 500), block=st.sampled_from([1, 4, 16, 32]), bias=st.booleans(),
           constant=st.booleans(), ridge=st.sampled_from([0.0, 1e-6, 0.1, 10.0, math.inf]),
           tokens=st.sampled_from([1, 3, 20, 300]))
    @settings(max_examples=60, deadline=None)
    def test_it_never_raises_the_calibration_error(self, seed, block, bias, constant, ridge, tokens):
        full, quantized = pairs(seed, tokens, constant=constant)
        correction = TAC(TacParams(block=block, ridge=ridge, bias=bias)).fit(moments(full, quantized, block))
        plain = float((quantized.double() - full.double()).square().sum(1).mean())
        assert lost(correction, full, quantized) <= plain * (1 + 1e-9) + 1e-12

    def test_it_is_the_least_squares_fit(self):
        full, quantized = pairs()
        correction = TAC(TacParams(block=16)).fit(moments(full, quantized))
        design = torch.cat([quantized.double(), torch.ones(300, 1).double()], 1)
        for block in range(2):
            rows = [*range(block * 16, block * 16 + 16), 32]
            target = full[:, block * 16:block * 16 + 16].double()
            expected = torch.linalg.lstsq(design[:, rows], target).solution
            bias = correction.bias[block * 16:block * 16 + 16]
            assert torch.allclose(correction.matrix[block].T, expected[:-1], rtol=1e-6, atol=1e-8)
            assert torch.allclose(bias, expected[-1], rtol=1e-6, atol=1e-8)

    def test_larger_blocks_lose_less_on_calibration_tokens(self):
        full, quantized = pairs()
        found = [lost(TAC(TacParams(block=block)).fit(moments(full, quantized, block)), full, quantized)
                 for block in (1, 4, 16, 32)]
        assert found == sorted(found, reverse=True) and found[-1] < 0.5 * found[0]

    def test_infinite_ridge_is_no_correction_and_with_bias_the_mean_alone(self):
        full, quantized = pairs()
        none = TAC(TacParams(ridge=math.inf, bias=False)).fit(moments(full, quantized))
        weight, bias = torch.randn(8, 32, generator=torch.Generator().manual_seed(1)), torch.ones(8)
        folded, moved = none.fold(weight, bias)
        assert_same_bits(folded, weight)
        assert_same_bits(moved, bias)
        mean = TAC(TacParams(ridge=math.inf)).fit(moments(full, quantized))
        assert torch.allclose(mean.bias, (full - quantized).double().mean(0), atol=1e-7)

    def test_folding_gives_the_outputs_of_correcting(self):
        full, quantized = pairs()
        correction = TAC(TacParams(block=8, ridge=0.01)).fit(moments(full, quantized, 8))
        weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
        for bias in (torch.randn(8, generator=torch.Generator().manual_seed(2)), None):
            folded, moved = correction.fold(weight, bias)
            expected = correction.apply(quantized.double()) @ weight.double().T
            expected = expected if bias is None else expected + bias.double()
            found = quantized.double() @ folded.double().T + moved.double()
            assert (found - expected).norm() <= 1e-6 * expected.norm()

    def test_moments_of_batches_and_workers_add_up(self):
        full, quantized = pairs()
        whole, parts = moments(full, quantized), moments(full[:100], quantized[:100])
        parts.merge(moments(full[100:], quantized[100:]))
        first, second = (TAC(TacParams()).fit(each) for each in (whole, parts))
        assert torch.allclose(first.matrix, second.matrix, rtol=1e-6, atol=1e-9)

    def test_what_cannot_be_is_refused(self):
        with pytest.raises(UserError, match="blocks of 16 do not divide an attention output of 40 channels"):
            PairedMoments(40, 16)
        with pytest.raises(UserError, match="no calibration token"):
            TAC(TacParams()).fit(PairedMoments(32, 16))
        with pytest.raises(UserError, match="NaN or infinity"):
            moments(torch.full((2, 16), torch.nan), torch.ones(2, 16))
        with pytest.raises(ValueError, match="outputs of shape"):
            PairedMoments(32, 16).add(torch.ones(2, 32), torch.ones(3, 32))


class TestSoftmaxBias:
    def probabilities(self, seed=0, rows=4):
        return (torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2).softmax(-1)

    @pytest.mark.parametrize("bits", [3, 4, 8])
    def test_after_correction_no_head_has_a_bias_left(self, bits):
        p = self.probabilities()
        method = BiasSums(SoftmaxBiasParams(bits=bits), heads=3)
        method.add(p[:2])
        method.add(p[2:])
        plain, corrected = method.round(p), method.fake_quantize(p)
        before, after = ((each - p).double().mean((0, 2, 3)) for each in (plain, corrected))
        assert (after.abs() < 1e-7).all()
        if bits < 8:
            assert (before.abs() > 1e-4).any()
            assert (corrected.sum(-1) - 1).abs().mean() < (plain.sum(-1) - 1).abs().mean()

    def test_the_levels_are_those_of_b_bits(self):
        p = self.probabilities()
        method = BiasSums(SoftmaxBiasParams(bits=4, correct=False), heads=3)
        assert_same_bits(method.fake_quantize(p), method.round(p))
        assert set((method.round(p) * 15).round().unique().tolist()) <= set(range(16))
        assert (method.round(p) - p).abs().max() <= 0.5 / 15 + 1e-6
        assert method.round(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]

    def test_one_correction_for_the_tensor_is_the_mean_of_those_of_heads(self):
        p = self.probabilities()
        per_head, per_tensor = (BiasSums(SoftmaxBiasParams(bits=3, per=per), heads=3)
                                for per in ("head", "tensor"))
        per_head.add(p)
        per_tensor.add(p)
        assert torch.allclose(per_tensor.beta, per_head.beta.mean().expand(1, 3))
        assert per_head.beta.unique().numel() == 3

    def test_intervals_have_corrections_of_their_own(self):
        first, second = self.probabilities(0), self.probabilities(1) ** 2
        method = BiasSums(SoftmaxBiasParams(bits=3), heads=3, intervals=3)
        method.add(first, 0)
        method.add(second, 1)
        both = method.fake_quantize(torch.cat([first[:1], second[:1]]), torch.tensor([0, 1]))
        assert_same_bits(both[0], method.fake_quantize(first[:1], 0)[0])
        assert_same_bits(both[1], method.fake_quantize(second[:1], 1)[0])
        assert torch.allclose(method.beta[2], method.beta[:2].mean(0))  # none was counted there
        assert not torch.equal(method.beta[0], method.beta[1])

    def test_padding_neither_counts_nor_is_corrected(self):
        scores = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        keys = torch.arange(8).expand(2, 8) < 5
        p = scores.masked_fill(~keys[:, None, None], -torch.inf).softmax(-1)
        method = BiasSums(SoftmaxBiasParams(bits=3), heads=3)
        method.add(p, keys=keys)
        expected = (p - method.round(p))[..., :5].double().mean((0, 2, 3))
        assert torch.allclose(method.beta[0], expected)
        assert (method.fake_quantize(p, keys=keys)[..., 5:] == 0).all()

    def test_what_cannot_be_is_refused(self):
        method = BiasSums(SoftmaxBiasParams(), heads=3)
        with pytest.raises(ValueError, match="softmax bias of 3 heads: found 2"):
            method.add(torch.ones(1, 2, 4, 4) / 4)
        with pytest.raises(UserError, match="NaN or infinity"):
            method.add(torch.full((1, 3, 4, 4), torch.nan))

    def test_workers_merge(self):
        p = self.probabilities()
        whole, first, second = (BiasSums(SoftmaxBiasParams(bits=4), heads=3) for _ in range(3))
        whole.add(p)
        first.add(p[:1])
        second.add(p[1:])
        first.merge(second)
        assert torch.allclose(first.beta, whole.beta)


class TestIntervalScales:
    def rounded(self, seed=0, bits=3):
        weight, _, _ = problem(24, 32, seed)
        return weight, quantize(RoundToNearest(GridParams(bits=bits)), weight).weight

    @given(seed=st.integers(0, 300), sides=st.sampled_from(["outputs", "both"]),
           tokens=st.sampled_from([1, 5, 40, 400]))
    @settings(max_examples=30, deadline=None)
    def test_no_interval_is_worse_than_without_scales(self, seed, sides, tokens):
        weight, decoded = self.rounded(seed)
        intervals = [counted(inputs(tokens, 32, seed + k)) for k in range(3)]
        scales = fit_interval_scales(weight, decoded, intervals, IntervalScaleParams(sides=sides))
        for k, statistics in enumerate(intervals):
            ours, plain = (output_error(weight, each, statistics.second_moment).sum()
                           for each in (scales.weight(decoded, k), decoded))
            assert ours <= plain * (1 + 1e-5) + 1e-12

    def test_scales_undo_a_known_scaling(self):
        weight, _ = self.rounded()
        outputs, channels = torch.linspace(0.5, 2, 24), torch.linspace(0.7, 1.4, 32)
        statistics = [counted(inputs(400, 32))]
        halves = weight / outputs[:, None]
        found = fit_interval_scales(weight, halves, statistics)
        assert torch.allclose(found.outputs[0], outputs, rtol=1e-5) and (found.inputs == 1).all()
        assert found.bytes == 4 * 24
        params = IntervalScaleParams(sides="both", rounds=40)
        both = fit_interval_scales(weight, halves / channels, statistics, params)
        assert (both.weight(halves / channels, 0) - weight).norm() < 1e-2 * weight.norm()

    def test_intervals_differ_and_both_sides_fit_better_than_one(self):
        weight, decoded = self.rounded(bits=2)
        intervals = [counted(inputs(400, 32, 7 + k)) for k in range(2)]
        one, both = (fit_interval_scales(weight, decoded, intervals, IntervalScaleParams(sides=sides))
                     for sides in ("outputs", "both"))
        assert not torch.equal(one.outputs[0], one.outputs[1])
        for k, statistics in enumerate(intervals):
            errors = [float(output_error(weight, each, statistics.second_moment).sum())
                      for each in (both.weight(decoded, k), one.weight(decoded, k), decoded)]
            assert errors[0] < 0.98 * errors[1] and errors[1] < 0.995 * errors[2]

    def test_an_interval_without_tokens_keeps_the_weight(self):
        weight, decoded = self.rounded()
        scales = fit_interval_scales(weight, decoded, [Statistics(32, {"second moment"})])
        assert_same_bits(scales.weight(decoded, 0), decoded)
