"""The denoiser against the published facts, and its parts against independent arithmetic."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spaces.config import AdaptConfig, LoraConfig
from spaces.errors import UserError
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.diffusion_lm.embedding import STORED_RMS
from trainable.models.lora import add_lora, count_parameters, set_trainable

SMALL = dict(embedding_dim=8, hidden=32, layers=2, heads=4, ffn=48, time_dim=16, dropout=0.0)
WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(26))]


def small(seed=0, loss="ce", **changes) -> DiffusionLM:
    return DiffusionLM(DiffusionLMConfig(**{**SMALL, **changes}), GaussianConfig(loss=loss), WORDS,
                       seed).eval()


def test_published_e2e_shape_has_87129749_parameters():
    model = DiffusionLM(DiffusionLMConfig(), GaussianConfig(), ["w"] * 821)
    assert sum(value.numel() for value in model.parameters()) == 87_129_749


def test_lora_on_query_and_value_adds_two_matrices_per_layer():
    model = small()
    added = add_lora(model, LoraConfig(rank=3))
    assert added == 2 * 2 * 3 * (32 + 32)
    set_trainable(model, AdaptConfig())
    trainable, total = count_parameters(model)
    body = {name: value for name, value in model.body.named_parameters()}
    assert {name for name, value in body.items() if value.requires_grad} == {n for n in body if "lora_" in n}
    assert trainable == total - sum(value.numel() for name, value in body.items() if "lora_" not in name)


@pytest.mark.parametrize(("target", "modules"),
                         [("query", 1), ("key", 1), ("value", 1), ("output", 1), ("ffn", 2)])
def test_lora_targets_name_the_right_layers(target, modules):
    model = small()
    add_lora(model, LoraConfig(rank=1, targets=(target,)))
    wrapped = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert len(wrapped) == modules * 2
    assert add_lora(small(), LoraConfig(rank=0)) == 0


def test_a_new_adapter_changes_nothing_and_is_seeded():
    plain, x, t = small(), torch.randn(2, 6, 8), torch.tensor([3, 900])
    first, second = small(), small()
    add_lora(first, LoraConfig(rank=2), seed=5)
    torch.rand(7)  # the global generator must not matter
    add_lora(second, LoraConfig(rank=2), seed=5)
    assert torch.allclose(plain(x, t), first(x, t), atol=1e-6)
    for (_, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b)


def test_same_seed_same_model_whatever_the_global_generator():
    torch.manual_seed(1)
    first = small(seed=3)
    torch.manual_seed(2)
    second = small(seed=3)
    other = small(seed=4)
    assert all(torch.equal(a, b)
               for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert not torch.equal(first.down[0].weight, other.down[0].weight)


def test_posterior_gives_x0_as_the_expected_embedding():
    model = small(normalize_embeddings=True)
    x, t = torch.randn(2, 6, 8), torch.tensor([10, 1500])
    prediction = model.predict(x, t)
    query = model(x, t).detach().double().numpy()
    rows = model.word_embedding.weight.detach().double().numpy()
    table = rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.sqrt(8)
    logits = query @ table.T + model.rounding.bias.detach().double().numpy()
    posterior = np.exp(logits - logits.max(-1, keepdims=True))
    posterior /= posterior.sum(-1, keepdims=True)
    np.testing.assert_allclose(prediction.x0.detach().numpy(), posterior @ table, atol=1e-5)
    np.testing.assert_allclose(prediction.log_probs.exp().detach().numpy(), posterior, atol=1e-6)


def test_mse_prediction_is_the_output_itself_and_cosine_rounding_ignores_length():
    model = small(loss="mse", rounding="cosine")
    x, t = torch.randn(2, 6, 8), torch.tensor([10, 1500])
    prediction = model.predict(x, t)
    assert torch.equal(prediction.x0, model(x, t))
    assert torch.allclose(model.logits(prediction.x0), model.logits(prediction.x0 * 7), atol=1e-4)


def test_prediction_is_differentiable_in_the_latent():
    model = small(self_conditioning=True)
    x = torch.randn(2, 6, 8, requires_grad=True)
    model.predict(x, torch.tensor([5, 50]), torch.zeros(2, 6, 8)).log_probs[..., 1].sum().backward()
    assert x.grad.abs().sum() > 0


def test_normalized_table_is_stored_at_the_documented_range():
    model = small(normalize_embeddings=True)
    stored = model.word_embedding.weight
    assert torch.allclose(stored.pow(2).mean(1).sqrt(), torch.full((30,), STORED_RMS), atol=1e-5)
    assert torch.allclose(model.table().pow(2).mean(1), torch.ones(30), atol=1e-5)


def test_pretrained_matrix_from_a_file_is_used_and_frozen(tmp_path):
    matrix = torch.randn(30, 8)
    save_file({"embeddings": matrix}, tmp_path / "e.safetensors")
    settings = dict(embeddings="pretrained", pretrained_path=str(tmp_path / "e.safetensors"))
    model = small(**settings)
    assert torch.equal(model.word_embedding.weight, matrix) and not model.word_embedding.weight.requires_grad
    assert small(**settings, pretrained_trainable=True).word_embedding.weight.requires_grad
    with pytest.raises(UserError, match=r"must hold one \[30, 6\] tensor"):
        small(**settings, embedding_dim=6)
    with pytest.raises(UserError, match="cannot read"):
        small(embeddings="pretrained", pretrained_path=str(tmp_path / "none.safetensors"))


def test_pretrained_rows_of_a_hugging_face_model_keep_their_geometry(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0, **{word: i + 1 for i, word in enumerate(WORDS[4:])}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(tmp_path)
    source = BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1,
                                  num_attention_heads=2, intermediate_size=32))
    source.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["hidden_size"] == 32
    table = small(embeddings="pretrained", pretrained_path=str(tmp_path),
                  embedding_dim=26).word_embedding.weight
    rows = source.get_input_embeddings().weight.detach()[1:].double().numpy()
    ours = table.detach()[4:].double().numpy()
    rows, ours = rows - rows.mean(0), ours - ours.mean(0)
    np.testing.assert_allclose(np.corrcoef((rows @ rows.T).ravel(), (ours @ ours.T).ravel())[0, 1], 1,
                               atol=0.02)
    with pytest.raises(UserError, match="cannot load embeddings"):
        small(embeddings="pretrained", pretrained_path=str(tmp_path / "none"))
