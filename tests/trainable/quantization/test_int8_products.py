"""Products of int8 codes: what is exact on which CPU, that they agree, and which of them is taken."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.int8_products import FORCED
from spaces.config import PluginRef, QuantizationConfig, TrialConfig
from trainable import compat
from trainable.artifacts.assembling import assembled
from trainable.artifacts.packing import packed_tensors
from trainable.control.lexicon import Lexicon
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.quantization import int8_products
from trainable.quantization.int8_body import (
    DecodedLinear,
    Int8Dynamic,
    Int8DynamicParams,
    Int8Linear,
    fastest_int8,
    products,
)
from trainable.registry import BODIES

CPU = torch.device("cpu")


def draw(*shape, seed=0, std=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


needs_fbgemm = pytest.mark.skipif(not int8_products.fbgemm_is_exact(7), reason="torch has no FBGEMM here")
eight = pytest.mark.skipif(8 not in int8_products.widths(CPU),
                           reason="a CPU whose integer products overflow with 8-bit activations")
needs_both = pytest.mark.skipif(not {"int_mm", "fbgemm"} <= set(int8_products.offered(CPU)),
                                reason="no FBGEMM, or a CPU whose products overflow with 8-bit activations")


def int8_layer(name, shape, seed=0, bias=None, bits=8):
    form = Int8Dynamic(Int8DynamicParams(product=name, activation_bits=bits))
    return form.linear(form.encode(draw(*shape, seed=seed, std=0.05)), shape, bias)


@needs_both
@pytest.mark.parametrize("bits", int8_products.BITS)
@pytest.mark.parametrize(("shape", "rows"), [((96, 200), 70), ((64, 64), 1), ((7, 13), 5), ((1, 1), 3)])
def test_fbgemm_rounds_as_int_mm_does(shape, rows, bits):
    """The same codes of every token, so the same sums: nothing but the order of two float products differs,
    and a code that lies on the edge of two."""
    bias, x = draw(shape[0], seed=1), draw(rows, shape[1], seed=2) * torch.logspace(-3, 3, rows)[:, None]
    one, other = (int8_layer(name, shape, bias=bias, bits=bits) for name in ("int_mm", "fbgemm"))
    assert (one.product_name, other.product_name) == ("int_mm", "fbgemm")
    step = int8_products.token_scales(x, bits) * one.weight_float().abs().amax(1)
    assert ((one(x) - other(x)).abs() <= 1e-5 * (one(x).abs() + bias.abs()) + 1.01 * step).all()
    differ = ((one(x) - other(x)).abs() > 1e-5 * (one(x).abs() + bias.abs())).any(1)
    assert differ.float().mean() < 0.05  # rows with such a code
    assert torch.equal(one.weight_float(), other.weight_float())


@needs_both
def test_fbgemm_takes_eight_bits_of_activations():
    """Seven, as in torch's own dynamic layers, would round 2 k + 1 of 127 to its neighbor."""
    layer = int8_layer("fbgemm", (32, 64))
    x = torch.arange(64.0).mul(2).sub(63)[None]  # odd codes from -63 to 63
    x[0, 0] = 127.0
    torch.testing.assert_close(layer(x), x @ layer.weight_float().t(), rtol=1e-5, atol=1e-4)


@needs_both
def test_eight_bits_are_the_default_and_compute_what_they_always_did():
    layer, x = int8_layer("int_mm", (48, 40), bias=draw(48, seed=1)), draw(9, 40, seed=2)
    scale = (x.abs().amax(1, keepdim=True) / 127).clamp_(min=2.0**-126)
    sums = (x / scale).round().to(torch.int32) @ layer.codes.view(48, 40).t().to(torch.int32)
    assert Int8DynamicParams().activation_bits == 8
    assert torch.equal(layer(x), sums.float() * scale * layer.scale + layer.bias)
    other = int8_layer("fbgemm", (48, 40))
    assert torch.equal(other(x), compat.fbgemm_linear(x / scale, other.packed, 128) * scale)


@needs_fbgemm
def test_seven_bits_are_the_codes_of_minus_63_to_63():
    """The largest that FBGEMM can never overflow with: see the module."""
    assert 2 * 127 * (63 + 64) <= 2**15 - 1 < 2 * 127 * (127 + 128)
    form = Int8Dynamic(Int8DynamicParams(product="fbgemm", activation_bits=7))
    layer, x = form.linear(form.encode(torch.eye(64)), (64, 64), None), draw(50, 64)
    codes = layer(x) / int8_products.token_scales(x, 7)
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    assert (codes.round().abs().amax(1) == 63).all()
    assert (layer(x) - x).abs().max() > 0.5 * x.abs().max() / 127  # coarser than 8 bits are


CHILD = """
import sys, torch
from trainable.quantization import int8_products
from trainable.quantization.int8_body import Int8Dynamic, Int8DynamicParams, fastest_int8
torch.set_num_threads(1)
parts, shape, rows = torch.load(sys.argv[1])
cpu = torch.device("cpu")
found = {"offered": {bits: int8_products.offered(cpu, bits) for bits in (8, 7)}}
for bits in (8, 7):
    layer = Int8Dynamic(Int8DynamicParams(product="fbgemm", activation_bits=bits)).linear(parts, shape, None)
    found[bits] = layer.product_name, layer(rows)
found["fastest"] = fastest_int8(shape, 1)
found["widths"] = int8_products.widths(cpu)
torch.save(found, sys.argv[2])
"""


def forced(tmp_path, parts, shape, rows, **environment):
    """What a process with these variables offers and computes by `fbgemm`, by bits of the activations."""
    torch.save((parts, shape, rows), tmp_path / "in.pt")
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "in.pt"), str(tmp_path / "out.pt")],
                   check=True, cwd=root, env={**os.environ, **environment, "PYTHONPATH": str(root)})
    return torch.load(tmp_path / "out.pt")


@needs_fbgemm
def test_without_vnni_seven_bits_are_exact_and_eight_are_refused(tmp_path):
    """By the kernels of such a CPU, with the largest codes among others: FBGEMM's take pairs in 16 bits."""
    shape = (96, 200)
    form = Int8Dynamic(Int8DynamicParams(product="fbgemm", activation_bits=7))
    weight, rows = draw(*shape, std=0.05), draw(70, 200, seed=2)
    weight[:8], rows[:8] = 0.1, 3.0
    weight[8:16, ::2], rows[8:16] = -0.1, -3.0
    parts = form.encode(weight)
    found = forced(tmp_path, parts, shape, rows, **FORCED)
    assert found["offered"] == {8: ["float32"], 7: ["fbgemm", "float32"]} and found["widths"] == [7]
    assert found["fastest"] == "float32" and found[8][0] == "float32" and found[7][0] == "fbgemm"
    assert torch.equal(found[7][1], form.linear(parts, shape, None)(rows))
    scale = int8_products.token_scales(rows, 7)
    sums = (rows / scale).round().double() @ parts["codes"].view(shape).double().t()
    expected = sums * scale.double() * parts["scale"].double()
    assert ((found[7][1] - expected).abs() <= 1e-5 * expected.abs() + 1e-5).float().mean() > 0.99


@needs_fbgemm
@pytest.mark.parametrize(("variable", "lost"), [("FBGEMM_ENABLE_INSTRUCTIONS", "fbgemm"),
                                                ("ONEDNN_MAX_CPU_ISA", "int_mm")])
def test_each_product_is_tried_for_itself(tmp_path, variable, lost):
    parts, shape = Int8Dynamic(Int8DynamicParams()).encode(draw(32, 64)), (32, 64)
    found = forced(tmp_path, parts, shape, draw(3, 64), **{variable: "AVX2"})
    assert lost not in found["offered"][8] and "fbgemm" in found["offered"][7]


def test_a_product_that_overflows_is_not_offered(monkeypatch):
    """As they do where pairs of products are added in 16 bits."""
    exact = {"int_mm": True, 8: False, 7: True}
    monkeypatch.setattr(int8_products, "int8_matmul_serves", lambda: exact["int_mm"])
    monkeypatch.setattr(int8_products, "fbgemm_is_exact", lambda bits: exact[bits])
    assert int8_products.offered(CPU) == ["int_mm", "float32"]
    assert int8_layer("fbgemm", (64, 64)).product_name == "int_mm"
    exact["int_mm"] = False
    assert int8_products.offered(CPU) == ["float32"] and int8_products.widths(CPU) == [7]
    assert isinstance(int8_layer("int_mm", (64, 64)), DecodedLinear)
    assert int8_layer("int_mm", (64, 64), bits=7).product_name == "fbgemm"
    exact[7] = False
    assert int8_products.widths(CPU) == []
    assert isinstance(int8_layer("fbgemm", (64, 64), bits=7), DecodedLinear)
    assert int8_products.offered(torch.device("cuda"), 7) == ["int_mm"]


@pytest.mark.parametrize("name", ["int_mm", "fbgemm"])
def test_saturating_sums_are_seen(name, monkeypatch):
    """The probes themselves, on a library that saturates as those do."""
    def saturating(x, *_):
        return torch.full((len(x), 32), 2.0**15 - 1) * 128

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    probe, place, called = {
        "int_mm": (compat.int8_matmul_serves, compat, "int8_matmul"),
        "fbgemm": (int8_products.fbgemm_is_exact, int8_products, "fbgemm_linear")}[name]
    monkeypatch.setattr(place, called, saturating)
    assert probe.__wrapped__() is False


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="of x86 alone")
def test_torchs_plain_loops_are_not_taken(monkeypatch):
    """Exact, but slower than floats: what torch has on x86 without AVX-512 VNNI."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    monkeypatch.setattr(compat, "int8_matmul", lambda *_: pytest.fail("not worth a try"))
    assert compat.int8_matmul_serves.__wrapped__() is False


@pytest.mark.parametrize(("seconds", "chosen"), [
    ({"int_mm": (2, 2), "fbgemm": (1, 3), "float32": (4, 4)}, "fbgemm"),
    ({"int_mm": (2, 2), "fbgemm": (1, 5), "float32": (4, 4)}, "int_mm"),  # slower than float32 at one number
    ({"int_mm": (1, 5), "fbgemm": (5, 1), "float32": (4, 4)}, "float32"),
    ({"int_mm": (1, 1), "float32": (4, 4)}, "int_mm"),
])
def test_the_fastest_is_never_slower_than_float32(seconds, chosen):
    assert int8_products.choose(seconds) == chosen


@eight
def test_the_choice_is_made_once_and_can_be_told(monkeypatch):
    asked = []

    def timed(layers, width):
        asked.append(width)
        return {name: (3.0 if width > 100 else 2.0,) if name == "float32" else (2.5,) for name in layers}

    monkeypatch.setattr(int8_products, "timed", timed)
    fastest_int8.cache_clear()
    try:
        model = nn.Sequential(*(int8_layer("fastest", shape) for shape in ((64, 64), (64, 256), (64, 64))))
    finally:
        fastest_int8.cache_clear()
    taken = int8_products.offered(CPU)[0]
    assert products(model) == {"float32": 2, taken: 1} and asked == [64, 256]
    assert isinstance(model[0], DecodedLinear) and torch.isfinite(model[:1](draw(3, 64))).all()


def test_products_are_timed_at_few_and_many_rows():
    layers = {"int_mm": int8_layer("int_mm", (32, 16)), "float32": nn.Linear(16, 32)}
    found = int8_products.timed(layers, 16)
    assert set(found) == {"int_mm", "float32"}
    assert all(len(taken) == len(int8_products.ROWS_TIMED) and min(taken) > 0 for taken in found.values())


@eight
def test_an_artifact_keeps_the_width_and_one_without_it_has_eight():
    ref = PluginRef(name="int8_dynamic", product="int_mm", activation_bits=7)
    config = TrialConfig(quantization=QuantizationConfig(body=ref), diffusion=GaussianConfig(timesteps=20),
                         model=DiffusionLMConfig(embedding_dim=8, hidden=64, layers=1, heads=2, ffn=64,
                                                 time_dim=8, dropout=0.0))
    words = [f"w{i}" for i in range(20)]
    tensors, packing = packed_tensors(DiffusionLM(config.model, config.diffusion, words), ref)
    packing = json.loads(json.dumps(packing))
    assert {entry["body"]["activation_bits"] for entry in packing.values() if "body" in entry} == {7}
    for bits in (7, 8):
        model = assembled(config, Lexicon(words, 8, {}, "words"), dict(tensors), packing, CPU)
        layers = [layer for layer in model.modules() if isinstance(layer, Int8Linear)]
        assert layers and {layer.bits for layer in layers} == {bits}
        for entry in packing.values():
            entry.get("body", {}).pop("activation_bits", None)  # as older artifacts are


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match="activation_bits"):
        BODIES.build(PluginRef(name="int8_dynamic", activation_bits=6))
