"""Formats of the body: what is stored, what is computed, and what an exported model does with them."""

import math

import pytest
import torch
from torch import nn

from spaces.config import LoraConfig, PluginRef, QuantizationConfig, TrialConfig
from trainable.artifacts.assembling import assembled
from trainable.artifacts.packed import Packed
from trainable.artifacts.packing import packed_tensors
from trainable.control.lexicon import Lexicon
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.masked.config import MaskedConfig
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.lora import add_lora
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.masked_lm.config import MaskedLMConfig
from trainable.quantization import body_formats, sites
from trainable.quantization.body_formats import CodedLinear
from trainable.quantization.int8_body import Int8Linear
from trainable.registry import BODIES, QUANTIZERS

CASES = [(name, params) for name in BODIES for params in BODIES.get(name).examples()]
CPU = torch.device("cpu")
ERROR = {"float32": 0, "bfloat16": 0.004, "int8_weight": 0.015, "int8_dynamic": 0.02, "int4_weight": 0.16}
SHAPE = DiffusionLMConfig(embedding_dim=8, hidden=64, layers=2, heads=2, ffn=128, time_dim=8, dropout=0.0)


def draw(*shape, seed=0, std=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


@pytest.fixture(params=CASES, ids=[f"{name}-{params}" for name, params in CASES])
def form(request):
    name, params = request.param
    return BODIES.get(name)(params)


class TestBodyContract:
    @pytest.mark.parametrize("shape", [(64, 128), (48, 40), (7, 13), (1, 1), (96, 200)], ids=str)
    def test_declared_layout_is_what_is_stored_and_decodes(self, form, shape):
        w = draw(*shape, std=0.02)
        parts = form.encode(w)
        assert ({n: (v.dtype, v.numel()) for n, v in parts.items()}
                == {n: tuple(p) for n, p in form.layout(shape).items()})
        assert all(value.ndim == 1 and value.is_contiguous() for value in parts.values())
        decoded = form.decode(parts, shape)
        assert decoded.dtype == torch.float32 and decoded.shape == w.shape
        assert (decoded - w).norm() <= ERROR[form.name] * w.norm()
        groups = form.integer_groups(parts, shape)
        assert groups is None or torch.equal(groups.values, decoded)
        assert (groups is None) == (form.name.endswith(("32", "16")) or form.name == "int4_weight"
                                    and shape[1] % form.params.group > 0)

    @pytest.mark.parametrize("rows", [1, 5, 600])
    def test_its_product_is_that_of_the_decoded_weight(self, form, rows):
        shape = (128, 64 * 3)
        if form.params.model_dump().get("group") == 128 or not form.runs(shape, CPU):
            assert form.name in ("float32",) or form.params.model_dump().get("group") == 128
            return
        w, bias, x = draw(*shape, std=0.05), draw(128, seed=1), draw(rows, shape[1], seed=2)
        parts = form.encode(w)
        layer = form.linear(parts, shape, bias)
        expected = nn.functional.linear(x.double(), form.decode(parts, shape).double(), bias.double())
        out = layer(x.view(1, rows, -1))
        assert out.shape == (1, rows, 128) and out.dtype == torch.float32
        assert (out[0] - expected).norm() < 0.015 * expected.norm()
        bare = form.linear(parts, shape, None)  # as most of today's transformers have them
        assert torch.equal(bare(x), form.linear(parts, shape, torch.zeros(128))(x))
        if isinstance(layer, Int8Linear):  # a scale per token, not per batch
            assert torch.equal(layer(x[:1]), layer(x)[:1])

    def test_gradient_towards_the_input_is_the_float_layers(self, form):
        shape = (64, 128)
        if not form.runs(shape, CPU):
            return
        parts, x, g = (form.encode(draw(*shape, std=0.05)), draw(9, 128, seed=2).requires_grad_(),
                       draw(9, 64, seed=3))
        for bias in (torch.zeros(64), None):
            x.grad = None
            form.linear(parts, shape, bias)(x).backward(g)
            torch.testing.assert_close(x.grad, g @ form.decode(parts, shape), rtol=0.02, atol=4e-3)

    @pytest.mark.parametrize("instructions", [True, False])
    def test_its_product_is_in_bfloat16_where_codes_and_device_allow(self, form, instructions, monkeypatch):
        """By hand: of codes that bfloat16 holds exactly what comes in and what comes out is rounded; without
        instructions for it nothing is."""
        shape = (64, 128)
        if not form.runs(shape, CPU):
            return
        monkeypatch.setattr(body_formats, "multiplies_bf16", lambda device: instructions)
        parts, x, g = (form.encode(draw(*shape, std=0.05)), draw(9, 128, seed=2).requires_grad_(),
                       draw(9, 64, seed=3))
        layer = form.linear(parts, shape, None)
        layer(x).backward(g)
        weight = form.decode(parts, shape).double()
        if instructions and isinstance(layer, CodedLinear) and layer.plain() is not None:
            scale = parts["scale"] if form.name.startswith("int8") else torch.ones(64)
            rounded = (g * scale).bfloat16().double() / scale.double()
            assert not torch.equal(rounded, g.double())
            torch.testing.assert_close(x.grad.double(), (rounded @ weight).bfloat16().double(),
                                       rtol=2**-7, atol=1e-6)
        elif form.name != "int4_weight":  # whose decoded weight is torch's own
            torch.testing.assert_close(x.grad.double(), g.double() @ weight, rtol=1e-5, atol=1e-5)

    def test_codes_may_lie_anywhere_in_a_file(self, form):
        """Misaligned arrays, as a file mapped into memory gives them, are multiplied like others
        (one kernel crashes)."""
        if not form.runs((64, 128), CPU):
            return
        parts, x = form.encode(draw(64, 128, std=0.05)), draw(40, 128, seed=2)
        moved = {name: torch.cat([value[:1], value])[1:] for name, value in parts.items()}
        expected = form.linear(parts, (64, 128), torch.zeros(64))(x)
        assert torch.equal(form.linear(moved, (64, 128), torch.zeros(64))(x), expected)

    def test_shapes_without_a_product_are_not_run(self, form):
        if form.name in ("int8_weight", "int4_weight"):
            assert not form.runs((30, 50), CPU)
        assert not form.runs((30, 50), torch.device("cuda")) or form.name == "bfloat16"

    def test_zero_and_huge_weights_stay_finite_and_nan_is_refused(self, form):
        for w in (torch.zeros(32, 64), draw(32, 64) * 1e30, torch.full((32, 64), 1e-40)):
            assert torch.isfinite(form.decode(form.encode(w), (32, 64))).all()
        with pytest.raises(ValueError, match="NaN or infinity"):
            form.encode(torch.full((32, 64), math.nan))

    def test_truncated_arrays_are_refused(self, form):
        parts = form.encode(draw(32, 64))
        for name, value in parts.items():
            with pytest.raises(ValueError, match="expected"):
                form.decode({**parts, name: value[:-1]}, (32, 64))


def test_int8_is_the_uniform_quantizer_of_eight_bits():
    w, uniform = draw(48, 64), QUANTIZERS.build(PluginRef(name="uniform", bits=8, scale_bits=32))
    form = BODIES.build_default("int8_weight")
    assert torch.equal(form.decode(form.encode(w), (48, 64)), uniform.fake_quantize(w))


def make(body: str, rank: int = 4):
    model = DiffusionLM(SHAPE, GaussianConfig(timesteps=20), [f"w{i}" for i in range(40)])
    sites.apply(model, QuantizationConfig(quantizer="uniform:4"))
    add_lora(model, LoraConfig(rank=rank))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(draw(*value.shape, seed=5, std=0.02))
    from spaces.config import TrialConfig
    config = TrialConfig(model=SHAPE, diffusion=GaussianConfig(timesteps=20))
    return model.eval(), config, body_of(body)


def body_of(body: str) -> PluginRef:
    """The format, its codes multiplied whatever is faster here."""
    return PluginRef(name=body, **({"product": "int_mm"} if body == "int8_dynamic" else {}))


@pytest.mark.parametrize("body", ["bfloat16", "int8_dynamic", "int8_weight", "int4_weight"])
@torch.no_grad()
def test_the_body_computes_with_codes_and_the_merged_adapter(body):
    model, config, ref = make(body)
    tensors, packing = packed_tensors(model, ref)
    lexicon = Lexicon([f"w{i}" for i in range(40)], 8, {}, "words")
    coded, plain = (assembled(config, lexicon, dict(tensors), packing, CPU, run_codes=run)
                    for run in (True, False))
    layers = [module for module in coded.modules() if isinstance(module, CodedLinear)]
    assert len(layers) == 12 and not any(isinstance(m, nn.Linear) for m in coded.body.modules())
    assert not any(isinstance(module, CodedLinear) for module in plain.modules())
    x, t = draw(3, 10, 8), torch.tensor([1, 9, 15])
    expected, near, ours = model(x, t), plain(x, t), coded(x, t)
    assert (ours - near).norm() < 0.05 * near.norm()  # activations are rounded too
    assert (near - expected).norm() < (0.3 if body == "int4_weight" else 0.05) * expected.norm()
    key = "body.layer.0.attention.self.query"
    merged = model.get_submodule(key).base_layer.weight + 4.0 * (  # alpha 16 / rank 4
        model.get_submodule(key).lora_B["default"].weight @ model.get_submodule(key).lora_A["default"].weight)
    assert torch.equal(plain.get_submodule(key).weight,
                       BODIES.build(ref).decode(BODIES.build(ref).encode(merged), (64, 64)))
    assert torch.equal(coded.word_embedding.weight, model.word_embedding.weight)


@pytest.mark.parametrize("architecture", ["modernbert", "llama"])
@torch.no_grad()
def test_a_body_without_biases_computes_with_codes(architecture):
    ref, words = body_of("int8_dynamic"), [f"w{i}" for i in range(40)]
    shape = MaskedLMConfig(body=architecture, hidden=64, layers=1, heads=2, ffn=128, dropout=0.0,
                           positions=16)
    config = TrialConfig(model=shape, diffusion=MaskedConfig(), quantization=QuantizationConfig(body=ref))
    model = MaskedLM(shape, len(words)).eval()
    tensors, packing = packed_tensors(model, ref)
    lexicon = Lexicon(words, 8, {}, "words")
    coded, plain = (assembled(config, lexicon, dict(tensors), packing, CPU, run_codes=run)
                    for run in (True, False))
    layers = [module for module in coded.modules() if isinstance(module, CodedLinear)]
    assert layers and all(layer.bias is None for layer in layers)
    ids = torch.tensor([[0, 40, 7, 40, 1]])
    assert (coded(ids) - plain(ids)).norm() < 0.05 * plain(ids).norm()


def test_bits_are_counted_from_what_is_packed():
    model, config, ref = make("int8_dynamic")
    lexicon = Lexicon([f"w{i}" for i in range(40)], 20, {}, "words")
    body = config.model_copy(update={"quantization": QuantizationConfig(body=ref)})
    facts = Packed.pack(model, body, lexicon).facts({})
    tensors, _ = packed_tensors(model, ref)
    assert facts["packed_bytes"] == sum(v.numel() * v.element_size() for v in tensors.values())
    # 4 bits, and bfloat16 a row
    assert facts["bits_per_weight_embedding"] == 8 * (40 * 8 // 2 + 2 * 40) / 320
    assert facts["bits_per_weight_projection"] == 32
    values = 64 * 64 * 4 * 2
    assert facts["bits_per_weight_attention"] == 8 * (values + 4 * 4 * 2 * 64) / values
    plain = DiffusionLM(SHAPE, GaussianConfig(timesteps=20), [f"w{i}" for i in range(40)])
    total = sum(value.numel() for value in plain.parameters())
    assert facts["bits_per_weight"] == 8 * facts["packed_bytes"] / total
    assert Packed.pack(plain, config, lexicon).facts({})["bits_per_weight"] == 32


def test_a_body_that_is_quantized_twice_is_refused():
    with pytest.raises(ValueError,
                       match="int8_dynamic rounds attention and ffn.*binary is on site ffn.*keep one"):
        QuantizationConfig(body="int8_dynamic", per_site={"ffn": "binary"})
    QuantizationConfig(body="int8_dynamic", quantizer="binary", sites=("embedding", "projection"))
