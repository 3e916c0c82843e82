"""Half-quadratic zero points, and sums of sign matrices at two bits."""

import pytest
import torch
from calibration_problems import counted, inputs, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.quantization.post_training.gptq import GPTQ, GptqParams
from trainable.quantization.post_training.grid import GridParams
from trainable.quantization.post_training.half_quadratic import HalfQuadratic, HalfQuadraticParams
from trainable.quantization.post_training.multi_binary import (
    MultiBinary,
    MultiBinaryParams,
    _best_signs,
    _Fit,
    _fit,
)
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.rtn import RoundToNearest
from trainable.quantization.post_training.statistics import output_error


def norm(weight, quantized, p: float = 0.7) -> torch.Tensor:
    """Of each row: sum |error|^p."""
    return (quantized.double() - weight.double()).abs().pow(p).sum(1)


class TestHalfQuadratic:
    @given(seed=st.integers(0, 1000), bits=st.integers(2, 8), group=st.sampled_from([0, 8]),
           rounds=st.integers(0, 30))
    @settings(max_examples=40, deadline=None)
    def test_the_best_round_is_kept(self, seed, bits, group, rounds):
        weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(seed))
        plain = quantize(RoundToNearest(GridParams(bits=bits, group=group)), weight).weight
        done = quantize(HalfQuadratic(HalfQuadraticParams(bits=bits, group=group, rounds=rounds)), weight)
        assert (norm(weight, done.weight) <= norm(weight, plain) * (1 + 1e-4)).all()
        share = float(norm(weight, done.weight).sum() / norm(weight, plain).sum())
        assert done.encoded.report["share_of_plain_error"] == pytest.approx(share, rel=1e-3)

    def test_more_rounds_never_lose_and_some_gain(self):
        weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        found = []
        for rounds in (0, 1, 5, 20, 60):
            method = HalfQuadratic(HalfQuadraticParams(bits=3, group=16, rounds=rounds))
            found.append(float(norm(weight, quantize(method, weight).weight).sum()))
        assert found == sorted(found, reverse=True) and found[3] < 0.95 * found[0]

    def test_zero_points_are_found_where_they_stand(self):
        """Weights on a grid whose zero is no whole code: the zero point is recovered, and with it every
        weight."""
        codes = torch.randint(0, 8, (4, 64), generator=torch.Generator().manual_seed(0)).float()
        codes[:, 0], codes[:, 1] = 0, 7
        weight = (codes - 3.375) * 0.5
        start = quantize(RoundToNearest(GridParams(bits=3)), weight)
        done = quantize(HalfQuadratic(HalfQuadraticParams(bits=3)), weight)
        assert (start.weight - weight).abs().max() > 0.1 and (done.weight - weight).abs().max() < 0.02
        assert torch.allclose(done.encoded.parameters["zero"].float(), torch.full((4,), 3.375), atol=0.03)


class TestMultiBinary:
    @pytest.mark.parametrize("order", [1, 2, 3, 4])
    def test_signs_are_the_best_of_all_sums(self, order):
        generator = torch.Generator().manual_seed(order)
        block = torch.randn(7, 9, generator=generator)
        fit = _Fit(torch.ones(order, 7, 9), torch.randn(order, 7, generator=generator),
                   torch.randn(order, 9, generator=generator))
        found = _best_signs(block, fit)
        sums = []
        for number in range(2**order):
            signs = torch.tensor([1.0 if number >> k & 1 else -1.0 for k in range(order)]).view(-1, 1, 1)
            sums.append((signs * fit.planes).sum(0))
        least = (torch.stack(sums) - block).abs().amin(0)
        assert torch.allclose((found.values - block).abs(), least, atol=1e-6)
        assert set(found.signs.unique().tolist()) == {-1.0, 1.0}

    @given(seed=st.integers(0, 500), order=st.integers(1, 3), emphasis=st.sampled_from([1.0, 4.0]))
    @settings(max_examples=20, deadline=None)
    def test_refitting_never_raises_the_weighted_error(self, seed, order, emphasis):
        generator = torch.Generator().manual_seed(seed)
        block = torch.randn(12, 16, generator=generator) * torch.rand(16, generator=generator).add(0.2)
        weights = torch.where(torch.rand(12, 16, generator=generator) < 0.1, emphasis**2, 1.0)
        lost = [float((weights * (block - _fit(block, weights, order, rounds).values).square()).sum())
                for rounds in (0, 1, 2, 5, 15)]
        # Scales are stored as bfloat16, which may cost half a percent.
        assert all(later <= earlier * 1.005 for earlier, later in zip(lost, lost[1:], strict=False))
        assert lost[-1] <= lost[0]

    def test_what_is_a_sum_of_signs_is_found(self):
        generator = torch.Generator().manual_seed(0)
        sign = torch.randint(2, (24, 32), generator=generator) * 2.0 - 1
        rows, columns = (torch.rand(*shape, generator=generator) + 0.5 for shape in ((24, 1), (32,)))
        weight = sign * rows * columns
        found = quantize(MultiBinary(MultiBinaryParams(bits=1, moved=0, compensate=False)), weight,
                         counted(inputs(200, 32)))
        assert (found.weight - weight).norm() < 0.01 * weight.norm()  # bfloat16 scales

    def test_bits_are_two_on_average_and_move_to_important_blocks(self):
        weight, statistics, _ = problem(16, 80)
        weight[:, 16:24] *= 6  # the third of ten blocks of eight
        done = quantize(MultiBinary(MultiBinaryParams(group=8, moved=0.1)), weight, statistics)
        orders = done.encoded.parameters["orders"].tolist()
        assert sum(orders) == 20 and sorted(set(orders)) == [1, 2, 3] and orders.count(3) == 1
        assert orders[2] == 3 and done.encoded.report["moved_blocks"] == 2
        assert done.encoded.codes.numel() == 2 * weight.numel() / 8

    def test_compensation_lowers_the_error_of_outputs(self):
        weight, statistics, _ = problem(64, 64, tokens=2048)
        lost = {}
        for compensate in (False, True):
            method = MultiBinary(MultiBinaryParams(group=16, compensate=compensate))
            done = quantize(method, weight, statistics)
            lost[compensate] = float(output_error(weight, done.weight, statistics.second_moment).sum())
        assert lost[True] < 0.9 * lost[False]

    def test_at_two_bits_it_beats_integer_grids(self):
        weight, statistics, _ = problem(128, 64, tokens=2048)
        methods = {"ours": MultiBinary(MultiBinaryParams(group=32)),
                   "rtn": RoundToNearest(GridParams(bits=2, group=32)),
                   "gptq": GPTQ(GptqParams(bits=2, group=32))}
        lost = {}
        for name, method in methods.items():
            found = quantize(method, weight, statistics).weight
            lost[name] = float(output_error(weight, found, statistics.second_moment).sum())
        assert lost["ours"] < 0.9 * lost["gptq"] < 0.9 * lost["rtn"]

    def test_orders_that_do_not_add_up_are_refused(self):
        weight, statistics, _ = problem(8, 32)
        method = MultiBinary(MultiBinaryParams(group=8))
        encoded = quantize(method, weight, statistics).encoded
        wrong = {**encoded.parameters, "orders": torch.full((4,), 3, dtype=torch.uint8)}
        with pytest.raises(ValueError, match="orders: expected 2 on average"):
            method.decode(encoded._replace(parameters=wrong), (8, 32))
