"""GPTQ: its limits, its reference, its promise never to lose to plain rounding, and its behavior on bad
Hessians."""

import pytest
import torch
from calibration_problems import assert_same_bits, counted, inputs, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.errors import UserError
from trainable.quantization.post_training.gptq import GPTQ, GptqParams
from trainable.quantization.post_training.grid import GridParams
from trainable.quantization.post_training.hessian import inverse_factor
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.rtn import RoundToNearest
from trainable.quantization.post_training.statistics import SECOND_MOMENT, Statistics, output_error
from trainable.quantizers.packing import unpack_bits


def identity_statistics(width: int) -> Statistics:
    """Tokens that are the unit vectors: H is a multiple of the identity."""
    return counted(torch.eye(width))


def error(weight, statistics, quantized) -> float:
    return float(output_error(weight, quantized.effective, statistics.second_moment).sum())


def reference(weight: torch.Tensor, second: torch.Tensor, bits: int, damping: float) -> torch.Tensor:
    """GPTQ as the paper writes it, in float64: one input after another, the inverse Hessian updated by
    elimination."""
    work = weight.double().clone()
    top = 2**bits - 1
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    scale = (high / top - low / top).bfloat16().double()
    zero = (-low.double() / scale).round().clamp(0, top)
    inverse = torch.linalg.inv(second + damping * second.diagonal().mean() * torch.eye(len(second)).double())
    out = torch.zeros_like(work)
    for j in range(len(second)):
        out[:, j] = (((work[:, j] / scale).round() + zero).clamp(0, top) - zero) * scale
        work -= ((work[:, j] - out[:, j]) / inverse[j, j])[:, None] * inverse[j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return out


@pytest.mark.parametrize("params", GPTQ.examples(), ids=str)
def test_on_an_identity_hessian_it_is_plain_rounding_bit_for_bit(params):
    weight, _, _ = problem(24, 32)
    grid = GridParams(**{name: getattr(params, name) for name in GridParams.model_fields})
    assert_same_bits(quantize(GPTQ(params), weight, identity_statistics(32)).weight,
                     quantize(RoundToNearest(grid), weight).weight)


@pytest.mark.parametrize(("width", "bits"), [(16, 3), (160, 4), (300, 2)])  # one, two and three blocks
def test_it_gives_what_the_definition_gives(width, bits):
    weight, statistics, _ = problem(40, width, tokens=4 * width)
    done = quantize(GPTQ(GptqParams(bits=bits)), weight, statistics)
    expected = reference(weight, statistics.second_moment, bits, 0.01)
    plain = quantize(RoundToNearest(GridParams(bits=bits)), weight).weight
    lost = [output_error(weight, each, statistics.second_moment) for each in (expected, plain)]
    rows = lost[0] < 0.999 * lost[1]
    assert rows.sum() >= 30
    same = (done.weight[rows] - expected[rows].float()).abs() < 1e-6
    assert same.float().mean() > 0.995  # float32 and float64 part where a value lies between two levels
    assert_same_bits(done.weight[lost[0] > 1.001 * lost[1]], plain[lost[0] > 1.001 * lost[1]])


@given(seed=st.integers(0, 10_000), width=st.sampled_from([1, 2, 3, 8, 24, 40]), out=st.integers(1, 12),
       bits=st.integers(2, 8), tokens=st.integers(1, 60), order=st.sampled_from(["given", "activation"]),
       group=st.sampled_from([0, 1, 8]), static=st.booleans(), symmetric=st.booleans())
@settings(max_examples=80, deadline=None)
def test_its_error_never_exceeds_that_of_plain_rounding(seed, width, out, bits, tokens, order, group, static,
                                                        symmetric):
    if group and width % group:
        group = 0
    x = inputs(tokens, width, seed)
    statistics = counted(x)
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(seed + 1))
    grid = {"bits": bits, "group": group, "symmetric": symmetric, "scale_bits": 32}
    ours = quantize(GPTQ(GptqParams(**grid, order=order, static_groups=static)), weight, statistics)
    lost = output_error(weight, ours.effective, statistics.second_moment)
    if order == "activation" and group and not static:  # groups are of other inputs: another grid
        return
    plain = quantize(RoundToNearest(GridParams(**grid)), weight).effective
    plain = output_error(weight, plain, statistics.second_moment)
    assert (lost <= plain * (1 + 1e-6) + 1e-12).all()


@pytest.mark.parametrize(("out", "width"), [(1, 16), (3, 8)])  # tables of which the transpose is no copy
def test_groups_measured_on_the_way_leave_the_plain_grid_alone(out, width):
    for seed in range(60):
        statistics = counted(inputs(60, width, seed))
        weight = torch.randn(out, width, generator=torch.Generator().manual_seed(seed + 1))
        grid = {"bits": 2, "group": 8, "scale_bits": 32}
        ours, plain = (quantize(method, weight, statistics) for method in (
            GPTQ(GptqParams(**grid, static_groups=False)), RoundToNearest(GridParams(**grid))))
        assert error(weight, statistics, ours) <= error(weight, statistics, plain) * (1 + 1e-6)


@pytest.mark.parametrize("params", [
    GptqParams(bits=3), GptqParams(bits=2, group=16), GptqParams(bits=3, order="activation"),
    GptqParams(bits=3, group=16, static_groups=False)], ids=str)
def test_on_correlated_inputs_it_loses_clearly_less_than_plain_rounding(params):
    weight, statistics, _ = problem(64, 64, tokens=2048)
    plain = quantize(RoundToNearest(GridParams(bits=params.bits, group=params.group)), weight)
    done = quantize(GPTQ(params), weight, statistics)
    assert error(weight, statistics, done) < 0.75 * error(weight, statistics, plain)
    assert done.encoded.report["plain_outputs"] < 10


def test_an_order_by_activation_with_groups_of_that_order_can_be_undone():
    weight, statistics, _ = problem(16, 48)
    method = GPTQ(GptqParams(bits=8, group=8, order="activation", static_groups=False, scale_bits=32))
    done = quantize(method, weight, statistics)
    order = done.encoded.parameters["order"]
    assert order.dtype == torch.int32 and sorted(order.tolist()) == list(range(48))
    sizes = statistics.second_moment.diagonal()[order.long()]
    assert (sizes[:-1] >= sizes[1:]).all()
    assert (done.weight - weight).abs().max() < 0.01  # inputs stand where they stood


def test_static_groups_keep_their_inputs_under_any_order():
    weight, statistics, _ = problem(16, 48)
    plain = quantize(RoundToNearest(GridParams(bits=3, group=8)), weight)
    done = quantize(GPTQ(GptqParams(bits=3, group=8, order="activation")), weight, statistics)
    assert "order" not in done.encoded.parameters
    for name, array in plain.encoded.parameters.items():
        assert torch.equal(done.encoded.parameters[name], array)


def test_scales_of_groups_are_measured_on_compensated_values():
    weight, statistics, _ = problem(16, 48)
    static, moving = (quantize(GPTQ(GptqParams(bits=3, group=8, static_groups=static)), weight, statistics)
                      for static in (True, False))
    first = slice(0, None, 6)  # the first group of each row has nothing to make up for
    same = static.encoded.parameters["scale"] == moving.encoded.parameters["scale"]
    assert same[first].all() and not same.all()


def test_the_factor_is_that_of_the_inverse():
    second = problem(4, 40)[1].second_moment
    found = inverse_factor(second, 0.01)
    inverse = torch.linalg.inv(second + 0.01 * second.diagonal().mean() * torch.eye(40).double())
    assert torch.equal(found.upper, found.upper.triu()) and found.retries == 0 and found.damping == 0.01
    assert torch.allclose(found.upper.T @ found.upper, inverse, rtol=1e-8, atol=1e-10)


def test_a_singular_hessian_is_damped_more_and_says_so():
    x = inputs(5, 32)  # five tokens span five of 32 directions
    weight, _, _ = problem(16, 32)
    statistics = counted(x)
    done = quantize(GPTQ(GptqParams(bits=4, damping=0.0)), weight, statistics)
    report = done.encoded.report
    assert report["damping_retries"] >= 1 and report["damping"] >= 1e-4
    plain = quantize(RoundToNearest(GridParams()), weight)
    assert error(weight, statistics, done) <= error(weight, statistics, plain)
    assert quantize(GPTQ(GptqParams()), weight, statistics).encoded.report["damping_retries"] == 0


def test_a_hessian_that_no_damping_mends_is_refused_in_one_line():
    second = torch.eye(4).double()
    second[0, 1] = second[1, 0] = 1e9
    with pytest.raises(UserError, match="Hessian of layer 3 stays singular .* after 6 retries") as refused:
        inverse_factor(second, 0.01, "layer 3")
    assert "\n" not in str(refused.value)


def test_inputs_that_were_always_zero_are_rounded_plainly_and_counted():
    x = inputs(400, 32)
    x[:, 7] = 0
    weight, _, _ = problem(16, 32)
    done = quantize(GPTQ(GptqParams(bits=4)), weight, counted(x))
    assert done.encoded.report["dead_inputs"] == 1
    assert_same_bits(done.weight[:, 7], quantize(RoundToNearest(GridParams()), weight).weight[:, 7])


def test_inputs_that_never_came_are_refused():
    with pytest.raises(UserError, match="empty: no calibration token"):
        quantize(GPTQ(GptqParams()), problem(4, 16)[0], Statistics(16, {SECOND_MOMENT}))


def test_no_weight_moves_more_than_codes_allow():
    weight, statistics, _ = problem(16, 64)
    done = quantize(GPTQ(GptqParams(bits=2)), weight, statistics)
    codes = unpack_bits(done.encoded.codes, 2, weight.numel())
    assert codes.min() == 0 and codes.max() == 3
    assert (done.weight.amax(1) - done.weight.amin(1) <= 1.01 * (weight.amax(1) - weight.amin(1))).all()
