"""Families against libraries that implement them independently, and against their formulas in float64."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from trainable.quantizers import dynamic_tree
from trainable.quantizers.floats import Format
from trainable.quantizers.fsq import bound
from trainable.registry import QUANTIZERS


def build(name, **params):
    cls = QUANTIZERS.get(name)
    return cls(cls.Params(**params))


def draw(*shape, std=0.5, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def trained(quantizer, w, upstream):
    """Gradients of the weight and of what is learned, in float64."""
    w, learned = w.clone().requires_grad_(), {k: v.requires_grad_() for k, v in quantizer.fit(w).items()}
    out = quantizer.fake_quantize(w, learned)
    out.backward(upstream)
    return out.detach().double(), w.grad.double(), {k: v.grad.double() for k, v in learned.items()}


# ---- floats: torch's own dtypes, the tables of the OCP specification, bitsandbytes

@pytest.mark.parametrize(("exp_bits", "man_bits", "dtype"),
                         [(4, 3, torch.float8_e4m3fn), (5, 2, torch.float8_e5m2)])
def test_fp8_is_torchs_in_value_and_in_code(exp_bits, man_bits, dtype):
    quantizer = build("float", exp_bits=exp_bits, man_bits=man_bits, bias="standard")
    largest = torch.finfo(dtype).max
    w = torch.cat([draw(60, 50, std=std).clamp(-largest, largest) for std in (1e-3, 0.1, 3.0, 200.0)])
    expected = w.to(dtype)
    assert torch.equal(quantizer.fake_quantize(w), expected.float())
    codes = quantizer.encode(w)["codes"]
    nonzero = expected.float().flatten() != 0  # torch keeps the sign of a zero, codes here do not
    assert torch.equal(codes[nonzero], expected.view(torch.uint8).flatten()[nonzero])


@pytest.mark.parametrize(("exp_bits", "man_bits", "values"), [
    (2, 1, [0, 0.5, 1, 1.5, 2, 3, 4, 6]), (3, 0, [0, 0.25, 0.5, 1, 2, 4, 8, 16]),
    (2, 3, [0, 0.125, 7.5]), (3, 2, [0, 0.0625, 28])])
def test_small_formats_have_the_published_values(exp_bits, man_bits, values):
    form = Format(exp_bits, man_bits)
    levels = form.values(torch.arange(form.magnitudes)).tolist()
    assert levels == values or (levels[:2] == values[:2] and levels[-1] == values[-1])
    x = draw(1, 5000, std=form.largest / 3)
    best = np.abs(x.numpy()[0][:, None] - np.array([*levels, *(-v for v in levels)])).min(1)
    error = (form.round(x) - x).abs().numpy()[0]
    np.testing.assert_allclose(error, best, atol=1e-6)


def test_exponent_bias_search_beats_absmax_as_llm_fp4_says():
    w = draw(50, 256)
    errors = {bias: (build("float", bias=bias).fake_quantize(w) - w).square().mean()
              for bias in ("absmax", "search")}
    assert errors["search"] < 0.97 * errors["absmax"]


# bitsandbytes

@pytest.mark.parametrize("group", [64, 128])
def test_nf4_is_bitsandbytes(group):
    functional = pytest.importorskip("bitsandbytes.functional")
    w = draw(20, 128)
    packed, state = functional.quantize_4bit(w, blocksize=group, quant_type="nf4")
    expected = functional.dequantize_4bit(packed, state)
    ours = build("nf4", group=group, scale_bits=32)
    torch.testing.assert_close(ours.fake_quantize(w), expected, rtol=1e-6, atol=1e-7)
    pairs = packed.flatten()  # bitsandbytes puts the first of two codes in the high half of a byte
    swapped = (pairs >> 4) | (pairs << 4)
    assert (ours.encode(w)["codes"] == swapped).float().mean() > 0.999


@pytest.mark.parametrize("shape", [(20, 128), (7, 64), (300, 128)])
def test_double_quantization_is_bitsandbytes_in_codes_and_both_levels_of_scales(shape):
    functional = pytest.importorskip("bitsandbytes.functional")
    w = draw(*shape)
    packed, state = functional.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
    ours = build("nf4", double=True).encode(w)
    pairs = packed.flatten()
    assert torch.equal(ours["codes"], (pairs >> 4) | (pairs << 4))
    assert torch.equal(ours["scale_top"], state.state2.absmax)
    assert float(ours["scale_mean"]) == float(state.offset)
    # bitsandbytes 0.50.2 misses the nearest number by one step in 1 of 1,000 cases
    off = ours["scale"].int() - state.absmax.int()
    assert off.abs().max() <= 1 and (off != 0).float().mean() < 0.005
    again = functional.dequantize_4bit(packed, state)
    torch.testing.assert_close(build("nf4", double=True).fake_quantize(w), again, rtol=0.01, atol=1e-7)
    if not off.any():
        torch.testing.assert_close(build("nf4", double=True).fake_quantize(w), again, rtol=1e-6, atol=1e-7)


def test_dynamic_tree_levels_are_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(dynamic_tree.levels(), functional.create_dynamic_map())


def test_dynamic_tree_levels_have_their_decades():
    levels = dynamic_tree.levels()
    assert len(levels) == 256 == len(levels.unique()) and levels[-1] == 1.0
    for place in range(7):  # 2^i even steps of each sign from 0.1 to 1 of its power of ten
        top = 10.0 ** (place - 6)
        inside = levels[(levels > 0.1 * top) & (levels < top)]
        steps = torch.linspace(0.1, 1.0, 2 * 2**place + 1)[1::2] * top
        torch.testing.assert_close(inside, steps)
    assert torch.equal(dynamic_tree.nearest(levels), torch.arange(256, dtype=torch.uint8))


def test_nf4_with_double_quantization_takes_the_bits_that_qlora_states():
    shape = (4096, 4096)
    assert build("nf4", scale_bits=32).bits_per_value(shape) == 4.5
    for nf4 in (build("nf4", scale_bits=8), build("nf4", double=True)):
        assert nf4.bits_per_value(shape) == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-5)


# torchao

@pytest.mark.parametrize(("element", "name"), [
    ("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2), ("fp4_e2m1", "float4_e2m1fn_x2")])
def test_mx_is_torchao(element, name):
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    dtype = getattr(torch, name) if isinstance(name, str) else name
    w = draw(16, 96, std=2.0)
    expected = mx.MXTensor.to_mx(w, dtype, 32).dequantize(torch.float32)
    assert torch.equal(build("mx", element=element).fake_quantize(w), expected)


def test_uniform_is_torchao():
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    w = draw(12, 64)
    scale = w.abs().amax(1) / 7
    zero = torch.zeros(12, dtype=torch.int32)
    codes = primitives.quantize_affine(w, (1, 64), scale, zero, torch.int8, -7, 7)
    expected = primitives.dequantize_affine(codes, (1, 64), scale, zero, torch.int8, -7, 7)
    torch.testing.assert_close(build("uniform", scale_bits=32).fake_quantize(w), expected, rtol=1e-6,
                               atol=1e-7)


# vector-quantize-pytorch

def test_fsq_squeezes_as_the_authors_code():
    library = pytest.importorskip("vector_quantize_pytorch")
    z = draw(300, 2, std=1.5)
    for levels in (5, 8):
        oracle = library.FSQ(levels=[levels, levels], preserve_symmetry=False)
        assert torch.allclose(bound(z, levels).round() / (levels // 2), oracle.quantize(z), atol=1e-6)


def test_vq_picks_the_codewords_that_vector_quantize_pytorch_picks():
    library = pytest.importorskip("vector_quantize_pytorch")
    w, quantizer = draw(200, 8), build("vq", entries=16)
    learned = quantizer.fit(w)
    learned["codebook"] = learned["codebook"].bfloat16().float()
    oracle = library.VectorQuantize(dim=8, codebook_size=16).eval()
    oracle.codebook = learned["codebook"][0, 0]
    assert torch.allclose(quantizer.fake_quantize(w, learned), oracle(w[None])[0][0], atol=1e-6)


# ---- formulas in float64

def test_lsq_gradients_follow_the_paper():
    quantizer = build("uniform", bits=3, scale="lsq", scale_bits=32)
    w, g = draw(6, 40), draw(6, 40, seed=1)
    out, w_grad, learned = trained(quantizer, w, g)
    s = 2 * w.double().abs().mean(1, keepdim=True) / math.sqrt(3)
    v = w.double() / s
    inside = (v.abs() <= 3).double()
    torch.testing.assert_close(out, s * v.clamp(-3, 3).round(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(w_grad, g.double() * inside, rtol=1e-6, atol=0)
    slope = inside * (v.round() - v) + (1 - inside) * 3 * v.sign()
    expected = (g.double() * slope).sum(1) / math.sqrt(40 * 3) * s[:, 0]  # ds/dlog s = s
    torch.testing.assert_close(learned["log_scale"], expected, rtol=1e-4, atol=1e-5)


def test_pams_gradient_is_the_sign_outside_and_nothing_inside():
    quantizer = build("uniform", bits=4, scale="pams", granularity="tensor", scale_bits=32)
    w = draw(6, 40)
    learned = {"log_scale": torch.tensor([math.log(0.6)], requires_grad=True)}
    w.requires_grad_()
    quantizer.fake_quantize(w, learned).backward(g := draw(6, 40, seed=1))
    beyond = w.detach().abs() > 0.6
    expected = 0.6 * float((g.double() * w.detach().double().sign() * beyond).sum())
    assert float(learned["log_scale"].grad) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(w.grad, g * ~beyond)


def test_affine_levels_are_even_and_hold_zero():
    w = draw(9, 50) + 0.8
    out = build("uniform", bits=4, symmetric=False, scale_bits=32).fake_quantize(w).double().numpy()
    low, high = np.minimum(w.numpy().min(1), 0), np.maximum(w.numpy().max(1), 0)
    step = ((high - low) / 15)[:, None]
    assert np.abs(out / step - np.round(out / step)).max() < 1e-4
    # half a step, one more at a shifted end
    assert np.abs(out - w.numpy()).max() <= step.max() * 0.51 + step.max()


@pytest.mark.parametrize(("bits", "block"), [(4, 32), (3, 8)])
def test_bfp_shares_the_exponent_of_the_largest(bits, block):
    w = draw(5, 64)
    v = w.double().numpy().reshape(-1, block)
    step = 2.0 ** (np.floor(np.log2(np.abs(v).max(1, keepdims=True))) - (bits - 2))
    top = 2 ** (bits - 1) - 1
    expected = (np.clip(np.round(v / step), -top, top) * step).reshape(5, 64)
    assert np.array_equal(build("bfp", bits=bits, block=block).fake_quantize(w).double().numpy(), expected)


def test_table_starts_as_k_means_and_an_entry_gets_the_gradients_that_point_at_it():
    w, g = draw(20, 30), draw(20, 30, seed=1)
    quantizer = build("lut", bits=2)
    out, w_grad, learned = trained(quantizer, w, g)
    levels = out.unique()
    for level, grad in zip(levels, learned["table"][0], strict=True):
        members = w[out == level].double()
        # bfloat16, and rounds that are few
        assert float(members.mean()) == pytest.approx(float(level), abs=0.02)
        assert float(grad) == pytest.approx(float(g.double()[out == level].sum()), rel=1e-4)
    assert torch.equal(w_grad, g.double())


def test_more_stages_and_more_entries_err_less():
    w = draw(400, 16)

    def error(name, **params):
        return float((build(name, **params).fake_quantize(w) - w).square().mean())
    by_stage = [error("rvq", entries=16, stages=n) for n in (2, 3, 4)]
    by_size = [error("pq", entries=n) for n in (4, 16, 64)]
    assert by_stage == sorted(by_stage, reverse=True) and by_size == sorted(by_size, reverse=True)
    assert error("pq", entries=64) < error("vq", entries=64)


def test_commitment_adds_the_gradients_of_its_losses():
    w, g = draw(30, 8), draw(30, 8, seed=1)
    quantizer = build("vq", entries=4, commitment=0.5)
    out, w_grad, learned = trained(quantizer, w, g)
    apart = 2 * (out - w.double()) / w.numel()
    torch.testing.assert_close(w_grad, g.double() - 0.5 * apart, rtol=1e-5, atol=1e-6)
    for entry in out.unique(dim=0):
        rows = (out == entry).all(1)
        number = next(i for i, c in enumerate(quantizer.fit(w)["codebook"][0, 0].bfloat16().double())
                      if torch.equal(c, entry))
        torch.testing.assert_close(learned["codebook"][0, 0, number], (g.double() + apart)[rows].sum(0),
                                   rtol=1e-4, atol=1e-5)


def test_simvq_uses_nearly_every_codeword_after_training_and_a_step_moves_them_all():
    w = draw(800, 4)
    quantizer = build("simvq", entries=32)
    learned = quantizer.fit(w)
    moved = {**learned, "map": learned["map"] + 0.1 * draw(1, 4, 4, seed=3)}
    before, after = quantizer._book(learned)[0, 0], quantizer._book(moved)[0, 0]
    assert (before != after).any(1).all()
    assert len(quantizer.fake_quantize(w, moved).unique(dim=0)) > 30


def test_adapt_takes_the_shortest_word_that_keeps_the_histogram_and_the_longest_fraction_that_fits():
    w = draw(400, 20)
    words = [build("adapt", divergence=d).format(w)[0] for d in (0.001, 0.01, 0.05, 2.0)]
    assert words == sorted(set(words), reverse=True) and len(words) == 4 and words[0] == 8
    for scale, quantizer in product((0.1, 1.0, 30.0), [build("adapt", least_bits=6, most_bits=6)]):
        word, fraction = quantizer.format(w * scale)
        top = float((w * scale).abs().max())
        assert word == 6 and top < 2.0 ** (5 - fraction) <= 2 * top


# ---- rules for the gradient

def test_rotation_turns_the_gradient_as_it_turns_the_row_and_affine_scales_it():
    w, g = draw(7, 12).double(), draw(7, 12, seed=1).double()
    grads = {}
    for rule in ("rotation", "affine"):
        leaf = w.float().requires_grad_()
        q = build("uniform", bits=2, gradient=rule).fake_quantize(leaf)
        q.backward(g.float())
        grads[rule] = leaf.grad.double()
    q = q.detach().double()
    for row in range(7):
        e, t = w[row] / w[row].norm(), q[row] / q[row].norm()
        r = (e + t) / (e + t).norm()
        turn = torch.eye(12, dtype=torch.float64) - 2 * torch.outer(r, r) + 2 * torch.outer(t, e)
        jacobian = turn * (q[row].norm() / w[row].norm())
        torch.testing.assert_close(jacobian @ w[row], q[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grads["rotation"][row], jacobian.T @ g[row], rtol=1e-4, atol=1e-5)
        slope = np.polyfit(w[row].numpy(), q[row].numpy(), 1)[0]
        torch.testing.assert_close(grads["affine"][row], slope * g[row], rtol=1e-4, atol=1e-5)
