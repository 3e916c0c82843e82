"""Each family against its formula, written again in float64 numpy, and against published facts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.registry import QUANTIZERS


def build(short, **params):
    ref = PluginRef.model_validate(short)
    return QUANTIZERS.build(PluginRef(name=ref.name, **ref.params, **params))


def draw(*shape, std=0.5, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def quantized(short, w, **params):
    return build(short, **params).fake_quantize(w).double().numpy()


def gradient(short, w, upstream, **params):
    w = w.clone().requires_grad_()
    build(short, **params).fake_quantize(w).backward(upstream)
    return w.grad.double().numpy()


# ---- binary

def test_binary_is_the_sign_times_the_mean_magnitude_of_its_row():
    w = draw(20, 30)
    v = w.double().numpy()
    expected = np.abs(v).mean(1, keepdims=True) * np.where(v >= 0, 1.0, -1.0)
    np.testing.assert_allclose(quantized("binary", w), expected, rtol=1e-6)


def test_mean_magnitude_is_the_best_scale_for_signs():
    w = draw(10, 50)
    v, alpha = w.double().numpy(), np.abs(quantized("binary", w))[:, :1]
    errors = [((v - alpha * f * np.sign(v)) ** 2).sum(1) for f in (0.98, 1.0, 1.02)]
    assert (errors[1] < errors[0]).all() and (errors[1] < errors[2]).all()


def test_released_binary_is_plus_or_minus_one_with_zero_as_plus():
    w = torch.tensor([[0.0, -0.0, 3.0, -1e-40]])
    assert quantized("binary", w, scale="one").tolist() == [[1, 1, 1, -1]]


def test_binary_gradients():
    w, g = torch.tensor([[0.5, -2.0, 1.0, -0.1]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert gradient("binary", w, g, scale="one").tolist() == [[1, 0, 3, 4]]
    v, u = w.double().numpy(), g.double().numpy()
    sign = np.sign(v)
    expected = np.abs(v).mean() * u * (np.abs(v) <= 1) + sign * (u * sign).mean()
    np.testing.assert_allclose(gradient("binary", w, g), expected, rtol=1e-6)


# ---- ternary

def test_twn_follows_its_rule():
    w = draw(40, 25)
    v = w.double().numpy()
    expected = np.zeros_like(v)
    for row, out in zip(v, expected, strict=True):
        kept = np.abs(row) > 0.7 * np.abs(row).mean()
        out[kept] = np.sign(row[kept]) * np.abs(row[kept]).mean()
    np.testing.assert_allclose(quantized("ternary_twn", w), expected, rtol=1e-6)


def test_absmean_follows_its_rule():
    w = draw(40, 25)
    v = w.double().numpy()
    gamma = np.abs(v).mean(1, keepdims=True)
    expected = gamma * np.clip(np.round(v / gamma), -1, 1)
    np.testing.assert_allclose(quantized("ternary_absmean", w), expected, rtol=1e-6)


def test_the_two_ternary_rules_differ():
    w = torch.tensor([[0.6, 1.0, 1.4]])  # mean 1: TWN drops 0.6, absmean keeps it
    assert quantized("ternary_twn", w)[0].round(6).tolist() == [0, 1.2, 1.2]
    assert quantized("ternary_absmean", w)[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["ternary_twn", "ternary_absmean", "pow2:Q0i4f"])
def test_gradient_passes_unchanged(name):
    w, g = draw(5, 7, std=3.0), draw(5, 7, seed=1)
    assert np.array_equal(gradient(name, w, g), g.double().numpy())


# ---- fixed point

FORMATS = [(0, 8), (0, 4), (4, 0), (8, 0), (4, 4), (8, 8), (0, 1), (1, 0), (3, 5)]


@pytest.mark.parametrize(("i", "f"), FORMATS)
@given(values=st.lists(st.floats(-400, 400, width=32), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_fixed_follows_its_rule(i, f, values):
    w = torch.tensor([values], dtype=torch.float32)
    v = w.double().numpy()
    expected = np.clip(np.round(v * 2.0**f), -(2 ** (i + f)), 2 ** (i + f) - 1) / 2.0**f
    assert np.array_equal(quantized(f"fixed:Q{i}i{f}f", w), expected)


def test_sign_bit_readings_of_q0i8f():
    """Three readings of the name: sign extra (9 bits), included (8 bits, half the range), and TI's Q0.7."""
    shape = (100, 16)
    readings = {"extra": build("fixed:Q0i8f"), "included": build("fixed:Q0i8f", sign_bit="included"),
                "ti": build("fixed:Q1i7f", sign_bit="included")}
    assert {k: q.grid[1:] for k, q in readings.items()} == {
        "extra": (-1, 0.99609375, 1 / 256), "included": (-0.5, 0.49609375, 1 / 256),
        "ti": (-1, 0.9921875, 1 / 128)}
    assert {k: q.bits_per_value(shape) for k, q in readings.items()} == {"extra": 9, "included": 8, "ti": 8}


def test_rounds_half_to_even():
    w = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5]])
    assert quantized("fixed:Q4i0f", w).tolist() == [[0, 2, 2, 0, -2]]


def test_fixed_gradient_is_zero_exactly_where_it_saturates():
    high, low = 0.99609375, -1.0
    step = torch.finfo(torch.float32).eps
    w = torch.tensor([[0.3, high, high + step, low, low - step, 5.0, -5.0, 0.0]])
    expected = [[1, 1, 0, 1, 0, 0, 0, 1]]
    assert gradient("fixed:Q0i8f", w, torch.ones_like(w)).tolist() == expected


def test_integer_only_formats_erase_small_weights():
    """Weights of BERT's size (std 0.02): relative error 1.0 for integers, 0.003 for Q0i8f, 0.68 for Q4i4f."""
    w = draw(500, 400, std=0.02)
    error = {f: ((quantized(f"fixed:{f}", w) - w.double().numpy()) ** 2).sum()
             / (w.double().numpy() ** 2).sum() for f in ("Q4i0f", "Q8i0f", "Q0i8f", "Q4i4f")}
    assert error["Q4i0f"] == error["Q8i0f"] == 1.0
    assert error["Q0i8f"] == pytest.approx(0.003, abs=5e-4)
    assert error["Q4i4f"] == pytest.approx(0.68, abs=0.01)


# ---- power of two (released form)

@pytest.mark.parametrize(("i", "f"), FORMATS)
@given(values=st.lists(st.floats(-400, 400, width=32), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_pow2_follows_the_released_rule(i, f, values):
    w = torch.tensor([values], dtype=torch.float32)
    v = w.double().numpy()
    bound = (2.0 ** (i - 1) if i > 0 else 0) + (1 - 2.0**-f if f > 0 else 0)
    exponent = np.round(np.log2(np.abs(v), where=v != 0, out=np.zeros_like(v)))
    power = np.where((v == 0) | (exponent < -118), 0, np.sign(v) * 2.0**exponent)
    assert np.array_equal(quantized(f"pow2:Q{i}i{f}f", w), np.clip(power, -bound, bound))


def test_pow2_turns_at_the_square_root_of_two():
    below = np.nextafter(np.float32(math.sqrt(2)), np.float32(0))
    above = np.nextafter(np.float32(math.sqrt(2)), np.float32(2))
    w = torch.tensor([[float(below), float(above), float(-above)]])
    assert quantized("pow2:Q8i8f", w).tolist() == [[1, 2, -2]]


def test_pow2_floor_is_the_same_in_training_and_in_the_file():
    w = torch.tensor([[2.0**-118, 2.0**-119, -(2.0**-118), 2.0**-119 * 1.5, 1e-45]])
    assert quantized("pow2:Q0i8f", w).tolist() == [[2.0**-118, 0, -(2.0**-118), 2.0**-118, 0]]


def test_published_facts_of_the_released_form():
    w = draw(1, 200_000, std=1.0).clamp(-4.999, 4.999)
    reference = quantized("pow2:Q4i0f", w)
    for form in ("Q8i0f", "Q4i4f", "Q8i8f"):
        assert np.array_equal(quantized(f"pow2:{form}", w), reference)
    wide = draw(1, 10_000, std=100.0)
    bounds = {"Q0i4f": 0.9375, "Q0i8f": 0.99609375, "Q4i0f": 8, "Q8i0f": 128, "Q4i4f": 8.9375,
              "Q8i8f": 128.99609375}
    for form, bound in bounds.items():
        assert np.abs(quantized(f"pow2:{form}", wide)).max() == bound
    uniform = torch.rand(1, 200_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    differ = quantized("pow2:Q0i4f", uniform) != quantized("pow2:Q0i8f", uniform)
    assert np.array_equal(differ, uniform.double().numpy() ** 2 > 0.5)
    assert differ.mean() == pytest.approx(0.29, abs=0.005)
    small = draw(1, 100_000, std=0.02)
    assert all(np.array_equal(quantized(f"pow2:{f}", small), quantized("pow2:Q0i8f", small)) for f in bounds)


# ---- sizes and bad settings

@pytest.mark.parametrize(("short", "bits"), [
    ("none", 32), ("binary", 1 + 32 / 16), ("ternary_twn", 1.6 + 32 / 16), ("ternary_absmean", 1.6 + 32 / 16),
    ("fixed:Q0i8f", 9), ("fixed:Q4i0f", 5), ("fixed:Q8i8f", 17), ("pow2:Q0i8f", 8), ("pow2:Q4i0f", 8)])
def test_bits_of_a_table_of_820_words(short, bits):
    assert build(short).bits_per_value((820, 16)) == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize("name", ["fixed", "pow2"])
def test_format_without_bits_is_refused_by_name(name):
    with pytest.raises(UserError, match=r"Q0i0f has no bits: int_bits \+ frac_bits must be at least 1"):
        build(f"{name}:Q0i0f")


def test_other_impossible_formats_are_refused():
    with pytest.raises(UserError, match="Q0i1f with sign_bit included is all sign"):
        build("fixed:Q0i1f", sign_bit="included")
    with pytest.raises(UserError, match="less than or equal to 8"):
        build("fixed:Q0i9f")
    with pytest.raises(UserError, match="'mean' or 'one'"):
        build("binary", scale="max")
    with pytest.raises(UserError, match="frac_bits"):
        build("ternary_twn", frac_bits=2)
