"""A frozen body held as codes: what it computes, what it takes, and what is exported of it."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from spaces.config import AdaptConfig, LoraConfig, PluginRef, QuantizationConfig
from trainable.artifacts.packing import packed_tensors
from trainable.models.checkpointing import checkpoint_blocks
from trainable.models.lora import add_lora, set_trainable
from trainable.quantization import frozen, sites
from trainable.quantization.frozen import FrozenLinear, frozen_linears, hold_codes
from trainable.registry import BACKBONES, PROCESSES, QUANTIZERS

DOUBLE = {"name": "nf4", "double": True}
SHAPE = {"hidden": 32, "layers": 2, "heads": 2, "ffn": 64, "positions": 16, "dropout": 0.0}
MODELS = {"gaussian": ({"name": "diffusion_lm", "embedding_dim": 8, "time_dim": 8, **SHAPE},
                       {"name": "gaussian", "timesteps": 20, "loss": "ce"}),
          **{body: ({"name": "masked_lm", "body": body, **SHAPE}, {"name": "masked"})
             for body in ("bert", "modernbert", "llama")}}


class World:
    """An adapter that has an effect on a quantized body, ready to train."""

    def __init__(self, kind="gaussian", quantizer=DOUBLE, body="frozen", places=("attention", "ffn"),
                 variant="lora"):
        model, diffusion = (PluginRef(**settings) for settings in MODELS[kind])
        self.process = PROCESSES.build(diffusion)
        self.model = BACKBONES.get(model.name).from_config(
            BACKBONES.params(model), PROCESSES.params(diffusion), [f"w{i}" for i in range(24)])
        sites.apply(self.model, QuantizationConfig(quantizer=quantizer, sites=places))
        add_lora(self.model, LoraConfig(rank=2, targets=("query", "ffn"), variant=variant))
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if "lora_B" in name:
                    value.normal_(generator=draw)
        set_trainable(self.model, AdaptConfig(body=body))
        self.model.train()

    def step(self) -> tuple[float, dict[str, torch.Tensor], list[torch.Tensor]]:
        """Loss and gradients of one batch, and what autograd kept on the way."""
        ids = torch.randint(4, 24, (4, 12), generator=torch.Generator().manual_seed(3))
        kept: list[torch.Tensor] = []
        with saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
            loss = self.process.loss(self.model, ids, torch.Generator().manual_seed(4))["loss"]
        loss.backward()
        found = {name: value.grad for name, value in self.model.named_parameters() if value.grad is not None}
        return float(loss.detach()), found, kept


def assert_same_step(one, other, **tolerance):
    assert one[0] == pytest.approx(other[0], rel=1e-5) and one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], **tolerance)


@pytest.mark.parametrize("quantizer", [
    DOUBLE, {"name": "uniform", "bits": 3},
    {"name": "uniform", "bits": 2, "granularity": "group", "group": 16},
    {"name": "uniform", "scale_bits": 8, "symmetric": False}, {"name": "binary"}, {"name": "lut"}])
def test_a_layer_computes_with_its_decoded_weight_and_keeps_none_of_it(quantizer, monkeypatch):
    monkeypatch.setitem(frozen.PIECE, "cpu", 64 * 96)  # three pieces
    draw = torch.Generator().manual_seed(0)
    plain, made = nn.Linear(96, 150), QUANTIZERS.build(PluginRef(**quantizer))
    with torch.no_grad():
        plain.weight.normal_(generator=draw)
    layer = FrozenLinear(made, made.encode(plain.weight), (150, 96), plain.bias.requires_grad_(False))
    with torch.no_grad():
        plain.weight.copy_(made.fake_quantize(plain.weight))
    assert torch.equal(layer.weight, plain.weight) and not layer.state_dict().keys() - {"bias"}
    x, kept = torch.randn(2, 5, 96, generator=draw), []
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    with saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        out = layer(inputs[0])
    torch.testing.assert_close(out, plain(inputs[1]), rtol=1e-5, atol=1e-5)
    assert not kept
    for each, value in zip((out, plain(inputs[1])), inputs, strict=True):
        each.square().sum().backward()
        assert value.grad is not None
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind, variant", [*((kind, "lora") for kind in MODELS), ("gaussian", "dora"),
                                           ("llama", "dora")])
def test_a_body_of_codes_trains_as_one_of_floats_in_a_tenth_of_the_memory(kind, variant):
    floats, codes = World(kind, variant=variant), World(kind, variant=variant)
    values = hold_codes(codes.model)
    layers = frozen_linears(codes.model)
    assert values == sum(layer.in_features * layer.out_features for layer in layers.values())
    assert {sites.plain_name(name) for name in layers} == {
        sites.plain_name(name) for place in ("attention", "ffn") for name in floats.model.sites()[place]}
    held = sum(value.numel() * value.element_size() for layer in layers.values()
               for name, value in (*layer.named_parameters(), *layer.named_buffers()) if name != "bias")
    assert held == sum(layer.bytes for layer in layers.values()) <= 0.6 * values
    (loss, gradients, kept), right = codes.step(), floats.step()
    assert_same_step((loss, gradients), right, rtol=1e-4, atol=1e-6)
    weights = [layer.weight for layer in layers.values()]
    # in floats autograd holds on to every weight
    assert count_of(weights, kept) == 0 and count_of(weights, right[2]) >= len(weights)


def count_of(weights: list[torch.Tensor], kept: list[torch.Tensor]) -> int:
    """How many of what was kept are weights or their transposes."""
    return sum(any(weight.shape == form.shape and torch.equal(weight, form) for weight in weights
                   for form in (value, value.mT)) for value in kept if value.ndim == 2)


def test_what_is_exported_is_the_same_bit_for_bit():
    floats, codes = World(), World()
    hold_codes(codes.model)
    (first, head), (second, other) = (packed_tensors(each.model) for each in (floats, codes))
    assert head == other and first.keys() == second.keys()
    assert any(name.endswith("::lora_a") for name in first) and any("scale_top" in name for name in first)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_trains_or_learns_stays_as_it_is():
    assert hold_codes(World(body="trainable").model) == 0
    assert hold_codes(World(quantizer={"name": "uniform", "scale": "lsq"}).model) == 0
    outside = World(places=("embedding", "projection", "ffn"))
    assert hold_codes(outside.model) == 2 * 2 * 32 * 64
    assert hold_codes(outside.model) == 0
    assert sites.fake_of(outside.model.get_submodule("up.0")) is not None


def test_under_autocast_products_are_in_its_dtype():
    world = World()
    hold_codes(world.model)
    layer = next(iter(frozen_linears(world.model).values()))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(3, layer.in_features, requires_grad=True))
    assert out.dtype == torch.bfloat16
    out.sum().backward()


@pytest.mark.parametrize("kind", MODELS)
def test_checkpointed_blocks_have_the_same_gradients_and_keep_their_inputs_alone(kind):
    plain, checked = World(kind), World(kind)
    for world in (plain, checked):
        hold_codes(world.model)
    assert len(checkpoint_blocks(checked.model)) == SHAPE["layers"]
    one, other = plain.step(), checked.step()
    assert_same_step(other, one, rtol=0, atol=0)
    sizes = [sum(value.numel() for value in kept) for *_, kept in (one, other)]
    assert sizes[1] < 0.6 * sizes[0]
