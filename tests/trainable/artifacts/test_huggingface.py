"""What a stranger gets: plain transformers, and plain peft where the adapter stands apart, give the outputs
of the artifact."""

from __future__ import annotations

import json
import re

import checkpoints
import pytest
import tokenizers_made
import torch
import transformers
from exported_models import BODIES, MODELS, WORDS, exported, from_checkpoint
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from spaces.errors import UserError
from trainable.artifacts.artifact import load
from trainable.artifacts.huggingface import export_transformers
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokens import NEW, Tokens
from trainable.models.masked_lm.bodies import run_body


def states(loaded, ids: torch.Tensor) -> torch.Tensor:
    """The artifact's own last state."""
    if loaded.config.diffusion.name == "masked":
        return loaded.model.hidden(ids)
    return loaded.model.hidden(loaded.model.embed(ids), torch.zeros(len(ids), dtype=torch.long))


def automatic(folder):
    """The model in a folder, of the class that its page says."""
    name = re.search(r"import (AutoModel\w*)", (folder / "README.md").read_text()
                     if (folder / "README.md").is_file() else (folder.parent / "README.md").read_text())
    made, told = getattr(transformers, name[1]).from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    return made.eval()


def output(model, ids: torch.Tensor) -> torch.Tensor:
    """What it says: logits of words where it has a head."""
    found = model(ids)
    return found.logits[..., :len(WORDS)] if "logits" in found else found.last_hidden_state


def logits(loaded, ids: torch.Tensor) -> torch.Tensor:
    """The artifact's own, as transformers orders positions."""
    return loaded.model.logits(run_body(loaded.model.body, loaded.model.embed(ids)))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_transformers_and_peft_give_the_artifacts_outputs(name, body, tmp_path):
    artifact = exported(tmp_path, name, BODIES[body])
    out = export_transformers(artifact, tmp_path / "hf")
    loaded = load(artifact, run_codes=False)
    ids = torch.randint(4, len(WORDS), (3, 10), generator=torch.Generator().manual_seed(0))
    if name in ("bert", "modernbert", "llama"):
        ids[:, ::3] = loaded.model.mask_id
    want = states(loaded, ids)
    model, told = AutoModel.from_pretrained(out, output_loading_info=True)
    beside = {name.partition(".")[0] for name in told["unexpected_keys"]}
    assert not told["missing_keys"] and beside <= ({"head", "decoder"} if name == "modernbert" else set())
    assert (model.eval()(ids).last_hidden_state - want).abs().max() < 1e-5 < want.abs().mean()
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == ("bert" if name.startswith("gaussian") else name)
    assert "auto_map" not in config, "no code comes with it"
    assert (out / "adapter").exists() == (out / "base").exists() == (body == "trained"), "merged into floats"
    if name == "modernbert":
        # the other bodies' heads have another norm than BERT's, and more than Llama's
        want = logits(loaded, ids)
    if body == "trained":
        base = automatic(out / "base")
        assert (output(base, ids) - want).abs().max() > 0.01, "the adapter has an effect"
        adapted = PeftModel.from_pretrained(base, out / "adapter").eval()
        assert (output(adapted, ids) - want).abs().max() < 1e-5
        assert all(".lora_" in key for key in load_file(out / "adapter" / "adapter_model.safetensors"))


@torch.no_grad()
def test_noisy_latents_go_in_as_the_page_says(tmp_path):
    artifact = exported(tmp_path, "gaussian", {})
    out = export_transformers(artifact, tmp_path / "hf")
    own, rest = load(artifact).model, load_file(out / "diffusion.safetensors")
    x, t = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 17])

    def projected(name, value):
        first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        for layer, linear in ((0, first), (2, second)):
            linear.weight.data = rest[f"{name}.{layer}.weight"]
            linear.bias.data = rest[f"{name}.{layer}.bias"]
        return second(torch.nn.functional.silu(first(value)) if name == "time" else first(value).tanh())

    angles = (t * 1000 / 20)[:, None] * 10_000 ** (-torch.arange(4) / 4)
    times = projected("time", torch.cat([angles.cos(), angles.sin()], -1))
    embeds = projected("up", x) + times[:, None]
    found = projected("down", AutoModel.from_pretrained(out).eval()(inputs_embeds=embeds).last_hidden_state)
    assert (found - own(x, t)).abs().max() < 1e-5


def test_the_words_are_the_artifacts(tmp_path):
    out = export_transformers(exported(tmp_path, "bert", {}), tmp_path / "hf")
    words = AutoTokenizer.from_pretrained(out)
    assert words("w0 [MASK] never")["input_ids"] == [0, 4, len(WORDS), 2, 1] and words.pad_token_id == 3


@pytest.mark.parametrize("mask", [None, NEW])
@torch.no_grad()
def test_a_tokenizers_tokens_have_its_numbers(mask, tmp_path):
    """Rows of the model's table are in another order, and some tokens were left out."""
    tokens = Tokens.open(tokenizers_made.write(tmp_path / "tokens", "bytes", mask=mask is None), mask)
    text = tokenizers_made.TEXTS[0].split()
    tokens = tokens.only({*tokens.encode(text), *range(4, 20)})
    vocab = ["START", "END", "UNK", "PAD", *tokens.spellings()]
    lexicon = Lexicon(vocab, 12, {}, "words", {}, tokens.to_json())
    artifact = exported(tmp_path, "bert", BODIES["trained"], lexicon)
    out, loaded = export_transformers(artifact, tmp_path / "hf"), load(artifact, run_codes=False)
    words = AutoTokenizer.from_pretrained(out)
    rows = torch.tensor([[*tokens.encode(text[:3]), loaded.model.mask_id]])
    ids = torch.tensor([[*words(" " + " ".join(text[:3]), add_special_tokens=False)["input_ids"],
                         words.mask_token_id]])
    assert ids.shape == rows.shape and not torch.equal(ids, rows)
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(out / "base"), out / "adapter")
    for model in (AutoModel.from_pretrained(out), adapted):
        assert (model.eval()(ids).last_hidden_state - loaded.model.hidden(rows)).abs().max() < 1e-5


@pytest.mark.parametrize("name", checkpoints.SHAPES)
@torch.no_grad()
def test_a_model_that_began_from_a_checkpoint_is_one_again(name, tmp_path):
    """Trained on, so that its head is no longer the checkpoint's; logits by the tokenizer's numbers."""
    checkpoints.write(name, tmp_path / "checkpoint")
    artifact = from_checkpoint(name, tmp_path)
    loaded = load(artifact, run_codes=False)
    out = export_transformers(artifact, tmp_path / "hf")
    model, told = automatic(out), json.loads((out / "qdlm.json").read_text())
    assert type(model).__name__ == {"bert": "BertForMaskedLM", "modernbert": "ModernBertForMaskedLM"}.get(
        name, "Qwen2ForCausalLM" if name in ("qwen2", "dream") else "LlamaForCausalLM")
    assert not (out / "diffusion.safetensors").exists(), "nothing is left to say"
    table = torch.tensor(loaded.lexicon.tokens.table_rows())
    ids = torch.randint(4, len(table) - 1, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[:, ::3] = len(table) - 1
    found, want = model(table[ids]).logits, loaded.model(ids)
    if loaded.model.shift:
        found = torch.cat([found[:, :1], found[:, :-1]], 1)
    assert torch.allclose(found[..., table[4:-1]], want[..., 4:], atol=1e-5) and want.std() > 0.1
    assert int(table[-1]) in told["no_answers"]
    if name in ("bert", "modernbert"):
        assert (found[..., told["no_answers"]] < -1000).all()


def test_what_cannot_be_given_is_one_line_and_leaves_nothing(tmp_path):
    artifact = exported(tmp_path, "bert", {})
    (tmp_path / "there").mkdir()
    for source, target, said in ((artifact, "there", "is there already"),
                                 (tmp_path, "new", "is not an artifact")):
        with pytest.raises(UserError, match=said):
            export_transformers(source, tmp_path / target)
    assert not (tmp_path / "new").exists()
