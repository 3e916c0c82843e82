"""Variants of LoRA: what each computes, that what is exported is that, and that plain peft reads it."""

import pytest
import torch
from exported_models import WORDS, adapted
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModel

from spaces.config import AdaptConfig, LoraConfig, TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import export, load
from trainable.artifacts.huggingface import export_transformers
from trainable.artifacts.packing import decoded, packed_tensors
from trainable.artifacts.reading import check_fit
from trainable.control.lexicon import Lexicon
from trainable.models.lora import count_parameters, magnitude_of, merged, set_trainable
from trainable.stages.adapting import adapted_layers, set_magnitudes

LEXICON = Lexicon(WORDS, 12, {}, "words")
BODIES = {"float": {}, "nf4": {"quantizer": {"name": "nf4", "double": True}, "sites": ["attention", "ffn"]}}
IDS = torch.randint(4, len(WORDS), (3, 10), generator=torch.Generator().manual_seed(0))


def states(model, kind: str) -> torch.Tensor:
    if kind == "bert":
        return model.hidden(IDS)
    return model.hidden(model.embed(IDS), torch.zeros(len(IDS), dtype=torch.long))


@pytest.mark.parametrize("variant", ["rslora", "dora"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("kind", ["gaussian", "bert"])
@torch.no_grad()
def test_what_peft_computes_is_exported_and_read_by_plain_peft(kind, body, variant, tmp_path):
    model, config = adapted(kind, BODIES[body], LEXICON, variant=variant)
    want = states(model, kind)
    artifact = export(model, config, LEXICON, tmp_path / "trial-0001", {})
    assert (states(load(artifact).model, kind) - want).abs().max() < 1e-5 < 0.01 < want.std()
    tensors = load_file(artifact / "model.safetensors")
    apart = [name for name in tensors if name.endswith("::lora_m")]
    assert len(apart) == (2 if (body, variant) == ("nf4", "dora") else 0)
    assert all(tensors[name].shape == (32,) and tensors[name].dtype == torch.float32 for name in apart)
    out = export_transformers(artifact, tmp_path / "hf")
    whole = AutoModel.from_pretrained(out).eval()(IDS).last_hidden_state
    assert (whole - want).abs().max() < 1e-5
    assert (out / "adapter").exists() == (body == "nf4"), "into floats it is merged"
    if body == "nf4":
        base = AutoModel.from_pretrained(out / "base").eval()
        assert (base(IDS).last_hidden_state - want).abs().max() > 0.01, "the adapter has an effect"
        found = PeftModel.from_pretrained(base, out / "adapter").eval()(IDS).last_hidden_state
        assert (found - want).abs().max() < 1e-5


def test_magnitudes_are_counted_in_bytes_and_as_trained():
    (plain, _), (turned, config) = (adapted("bert", BODIES["nf4"], LEXICON, variant=variant)
                                    for variant in ("lora", "dora"))
    rows = sum(layer.linear.out_features for layer in adapted_layers(turned))
    sizes, counts = [], []
    for model in (plain, turned):
        tensors, packing = packed_tensors(model)
        sizes.append(sum(value.numel() * value.element_size() for value in tensors.values()))
        set_trainable(model, AdaptConfig())
        counts.append(count_parameters(model)[0])
    assert sizes[1] - sizes[0] == 4 * rows and counts[1] - counts[0] == rows == 64
    cut = {name: value for name, value in tensors.items() if not name.endswith("::lora_m")}
    shapes = {name: tuple(value.shape) for name, value in decoded(tensors, packing).items()}
    check_fit(tensors, packing, shapes, config.lora)
    with pytest.raises(ValueError, match="an adapter without lora_m"):
        check_fit(cut, packing, shapes, config.lora)
    with pytest.raises(ValueError, match="lora_m: expected codes of"):
        check_fit(tensors, packing, shapes, config.lora.model_copy(update={"variant": "lora"}))


@torch.no_grad()
def test_a_merged_weight_has_the_direction_of_the_sum_and_the_lengths_that_were_learned():
    draw = torch.Generator().manual_seed(0)
    weight, a, b = (torch.randn(shape, generator=draw) for shape in ((6, 5), (2, 5), (6, 2)))
    lengths = torch.rand(6, generator=draw) + 0.5
    found, plain = merged(weight, a, b, lengths).double(), merged(weight, a, b).double()
    torch.testing.assert_close(plain, weight.double() + b.double() @ a.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.square().sum(1).sqrt().float(), lengths)
    torch.testing.assert_close(torch.cosine_similarity(found, plain), torch.ones(6, dtype=torch.float64))


@torch.no_grad()
def test_rslora_is_lora_whose_alpha_grows_with_the_root_of_the_rank():
    one = adapted("bert", {}, LEXICON, rank=4, variant="rslora", alpha=3.0)[0]
    other = adapted("bert", {}, LEXICON, rank=4, alpha=6.0)[0]
    other.load_state_dict(one.state_dict())
    assert torch.equal(states(one, "bert"), states(other, "bert"))
    assert {layer.module.scaling["default"] for layer in adapted_layers(one)} == {1.5}


def test_rows_of_zeros_have_no_direction_and_are_one_line():
    model, _ = adapted("bert", BODIES["nf4"], LEXICON, variant="dora")
    layer = adapted_layers(model)[0]
    set_magnitudes([layer])
    with torch.no_grad():
        layer.master[:3], layer.module.lora_B["default"].weight[:3] = 0, 0
    with pytest.raises(UserError, match=r"^lora.variant: dora .* 3 of body.*query are zeros under nf4"):
        set_magnitudes([layer])
    assert magnitude_of(layer.module).requires_grad


@pytest.mark.parametrize("changes, said", [
    ({"adapt": {"hold": "codes"}}, r"lora.dropout=0.1 under lora.variant: dora .*; legal: lora.dropout: 0"),
    ({"adapt": {"mode": "supernet", "ranks": [2], "bits": [4]}}, r"lora.variant=dora: .*; legal: lora")])
def test_what_cannot_be_together_is_one_line(changes, said):
    lora = {"rank": 2, "variant": "dora", "dropout": 0.1}
    with pytest.raises(ValidationError, match=said):
        TrialConfig.model_validate({"lora": lora, **changes})
    assert TrialConfig.model_validate({"lora": lora}).lora == LoraConfig(rank=2, variant="dora", dropout=0.1)
