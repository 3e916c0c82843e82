"""Adapters for intervals of the noise level: each row by its own, each trained by its own rows, and one
interval is the ordinary adapter."""

import json
from copy import deepcopy

import pytest
import torch
from exported_models import WORDS, adapted, exported
from safetensors.torch import load_file

from spaces.config import LoraConfig
from spaces.errors import UserError
from trainable.adapters.intervals import FactorByInterval, by_interval, products
from trainable.artifacts.artifact import load
from trainable.artifacts.huggingface import export_transformers, plain
from trainable.artifacts.packed import Packed
from trainable.artifacts.reading import intervals_of
from trainable.control.lexicon import Lexicon
from trainable.models.noise import Noise

LEXICON = Lexicon(WORDS, 12, {}, "words")
NF4 = {"quantizer": "nf4", "sites": ["attention", "ffn"]}
KINDS = ("gaussian", "bert")
NOISE = torch.Generator().manual_seed(3)
LATENTS = torch.randn(4, 10, 8, generator=NOISE)
IDS = torch.randint(4, len(WORDS), (4, 10), generator=NOISE)


def rows(kind, model, levels):
    """(state, t) of four rows at noise levels of 20."""
    t = torch.tensor(levels)
    if kind == "gaussian":
        return LATENTS, t
    hidden = torch.arange(10)[None] < (t / 2)[:, None]
    return IDS.masked_fill(hidden, model.mask_id), t


def said(kind, model, levels):
    return model.predict(*rows(kind, model, levels)).log_probs


def factors(model):
    return {name: value for name, value in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("kind", KINDS)
def test_one_interval_is_the_ordinary_adapter_bit_for_bit(kind):
    plain, own = (adapted(kind, NF4, LEXICON, **more)[0] for more in ({}, {"intervals": 1}))
    by_interval(own, LoraConfig(rank=2, intervals=1))
    assert own.noise is None and not any(isinstance(each, FactorByInterval) for each in own.modules())
    levels = [2, 8, 14, 18]
    assert torch.equal(said(kind, plain, levels), said(kind, own, levels))
    for model in (plain, own):
        said(kind, model, levels).square().mean().backward()
    assert all(torch.equal(value.grad, factors(own)[name].grad) for name, value in factors(plain).items())


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_has_the_adapter_of_its_interval_and_trains_no_other(kind):
    model, _ = adapted(kind, NF4, LEXICON, intervals=4)
    levels = [2, 8, 18, 2]  # of 20: intervals 0, 1, 3, 0
    found = said(kind, model, levels)
    for row, interval in enumerate((0, 1, 3, 0)):  # the oracle: one adapter of those factors
        plain, _ = adapted(kind, NF4, LEXICON)
        with torch.no_grad():
            for name, value in factors(plain).items():
                value.copy_(factors(model)[name][interval])
        assert torch.allclose(said(kind, plain, levels)[row], found[row], atol=1e-5)
    found.square().mean().backward()
    for name, value in factors(model).items():
        assert value.shape[0] == 4
        assert [bool(part.any()) for part in value.grad] == [True, True, False, True], name


def test_intervals_begin_as_one_adapter():
    plain, _ = adapted("bert", NF4, LEXICON)
    own = deepcopy(plain)
    by_interval(own, LoraConfig(rank=2, intervals=3))
    assert all((factors(own)[name] == value).all() for name, value in factors(plain).items())
    levels = [2, 8, 14, 18]
    assert torch.allclose(said("bert", plain, levels), said("bert", own, levels), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantization", [NF4, {}], ids=["codes", "floats"])
@torch.no_grad()
def test_the_artifact_computes_by_interval_and_its_bytes_are_counted(kind, quantization, tmp_path):
    model, config = adapted(kind, quantization, LEXICON, intervals=3)
    loaded = load(exported(tmp_path, kind, quantization, LEXICON, intervals=3))
    levels = [2, 8, 14, 18]
    assert torch.allclose(said(kind, model, levels), said(kind, loaded.model, levels), atol=1e-5)
    # rows are alone with their own level, whatever stands beside them
    again = torch.stack([said(kind, loaded.model, [level] * 4)[row] for row, level in enumerate(levels)])
    assert torch.allclose(again, said(kind, loaded.model, levels), atol=1e-5)
    tensors = load_file(loaded.path / "model.safetensors")
    adapters = sum(value.nbytes for name, value in tensors.items() if "::lora_" in name)
    layers = [name for name in tensors if name.endswith("::lora_a")]
    assert adapters == 4 * 3 * 2 * (32 + 32) * len(layers) and len(layers) == 2
    single, _ = adapted(kind, quantization, LEXICON)
    one = Packed.pack(single, config.model_copy(update={"lora": LoraConfig(rank=2)}), LEXICON)
    apart = adapters / 3 if quantization else 0  # on floats one adapter is merged
    packed = Packed.pack(model, config, LEXICON)
    assert packed.facts({})["packed_bytes"] == one.facts({})["packed_bytes"] + adapters - apart
    said_of = json.loads((loaded.path / "config.json").read_text())["packing"]
    assert all(said_of[name.removesuffix("::lora_a")]["intervals"] == 3 for name in layers)


def test_other_programs_cannot_hold_them_in_one_line(tmp_path):
    artifact = exported(tmp_path, "bert", {**NF4, "quantizer": "uniform:4"}, intervals=2)
    with pytest.raises(UserError, match="its adapters differ between intervals of the noise") as error:
        export_transformers(artifact, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"lora.intervals"):  # what the exports of codes begin with
        plain(artifact, rounding=True)


@pytest.mark.parametrize("said_there", [0, 17, 2.0, "2", None])
def test_what_an_artifact_says_of_intervals_is_checked(said_there):
    with pytest.raises(ValueError, match="expected a whole number of 1 to 16"):
        intervals_of({"intervals": said_there})


def test_a_product_of_each_row_by_its_own_weight():
    x, weights = torch.randn(3, 5, 4, generator=NOISE), torch.randn(3, 2, 4, generator=NOISE)
    expected = torch.stack([row @ weight.T for row, weight in zip(x, weights, strict=True)])
    assert torch.allclose(products(x, weights), expected, atol=1e-6)
    assert torch.allclose(products(x[:, 0], weights), expected[:, 0], atol=1e-6)
    factor = FactorByInterval(torch.nn.Linear(4, 2, bias=False), 2, noise := Noise())
    noise.show(torch.tensor([0.2, 0.5, 0.9]), torch.zeros(3, 5, dtype=torch.bool))
    with torch.no_grad():
        factor.weight[1].mul_(2)
    assert torch.allclose(factor(x)[1:], 2 * products(x, factor.weight[[0, 0, 0]])[1:])


def test_the_names_that_peft_gave_stay():
    plain, _ = adapted("bert", {}, LEXICON)
    own, _ = adapted("bert", {}, LEXICON, intervals=2)
    assert list(factors(plain)) == list(factors(own))
