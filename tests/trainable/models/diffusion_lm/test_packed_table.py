"""Word tables that stay codes: equal rows bit for bit, products within their bound, the same sentences,
and what is refused."""

import pytest
import torch

from spaces.config import QuantizationConfig, TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import export, load
from trainable.control.lexicon import Lexicon
from trainable.models.diffusion_lm import packed_embedding
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.diffusion_lm.packed_embedding import PackedTable
from trainable.quantization import sites
from trainable.registry import BACKBONES, PROCESSES, QUANTIZERS
from trainable.seeds import stream

SHAPE = (300, 16)
EVERY = [(name, params) for name in QUANTIZERS for params in QUANTIZERS.get(name).examples()]
WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(296))]


def weights(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.5


@pytest.mark.parametrize(("name", "params"), EVERY,
                         ids=[QUANTIZERS.get(name)(params).label for name, params in EVERY])
def test_levels_times_scales_are_the_decoded_weight_bit_for_bit(name, params):
    quantizer = QUANTIZERS.get(name)(params)
    packed = quantizer.encode(weights())
    found = quantizer.integer_rows(packed, SHAPE)
    if found is None:
        return
    levels, scale = found
    assert levels.dtype == torch.int8 and levels.shape == SHAPE and scale.shape == (SHAPE[0], 1)
    assert torch.equal(levels * scale, quantizer.decode(packed, SHAPE))
    table, ids = PackedTable("x", levels, scale), torch.tensor([[7, 0], [299, 7]])
    assert torch.equal(table.rows(ids), quantizer.decode(packed, SHAPE)[ids])


def test_integer_families_have_such_a_form():
    found = {name for name, params in EVERY
             if QUANTIZERS.get(name)(params).integer_rows(QUANTIZERS.get(name)(params).encode(weights()),
                                                          SHAPE) is not None}
    assert found == {"binary", "ternary_twn", "ternary_absmean", "fixed", "uniform", "adapt"}


def test_products_and_gradients_are_those_of_the_floats():
    quantizer = QUANTIZERS.build_default("uniform")
    table = PackedTable("x", *quantizer.integer_rows(quantizer.encode(weights()), SHAPE))
    latent = (3 * weights(1, (2, 70, 16))).requires_grad_()
    factor = weights(2, (300,)).abs()
    exact = latent.detach().double() @ (table.weight.double() * factor[:, None].double()).T
    found = table.dot(latent, factor)
    bound = (2**-15 * latent.detach().abs().amax(-1, keepdim=True) * (table.weight.abs().sum(1) * factor)
             * 1.01 + 1e-6)
    assert ((found.double() - exact).abs() <= bound).all() and (found.double() - exact).abs().max() > 0
    pull = weights(3, found.shape)
    found.backward(pull)
    torch.testing.assert_close(latent.grad, pull @ (table.weight * factor[:, None]), rtol=1e-5, atol=1e-5)
    probabilities = found.detach().softmax(-1)
    torch.testing.assert_close(table.expected(probabilities, factor),
                               probabilities @ (table.weight * factor[:, None]))


def test_where_integer_products_overflow_rows_are_floats(monkeypatch):
    """x86 without VNNI."""
    quantizer = QUANTIZERS.build_default("uniform")
    table = PackedTable("x", *quantizer.integer_rows(quantizer.encode(weights()), SHAPE))
    latent, factor = 3 * weights(1, (2, 70, 16)), weights(2, (300,)).abs()
    monkeypatch.setattr(packed_embedding, "int8_matmul_serves", lambda: False)
    monkeypatch.setattr(packed_embedding, "int8_matmul", None)  # not called
    monkeypatch.setattr(packed_embedding, "DECODED", 128)
    torch.testing.assert_close(table.dot(latent, factor), latent @ (table.weight * factor[:, None]).t(),
                               rtol=1e-5, atol=1e-5)


def artifact(tmp_path, quantizer, **model):
    config = TrialConfig.model_validate({
        "corpus": {"max_length": 20}, "quantization": {"quantizer": quantizer}, "sampling": {"steps": 10},
        "model": {"embedding_dim": 16, "hidden": 32, "layers": 2, "heads": 2, "ffn": 32, "dropout": 0.0,
                  **model},
        "diffusion": {"timesteps": 100, "loss": "ce" if model.get("self_conditioning") else "mse"}})
    net = DiffusionLM(BACKBONES.params(config.model), PROCESSES.params(config.diffusion), WORDS,
                      seed=3).eval()
    with torch.no_grad():
        net.down[-1].weight.mul_(12)  # as decided as a trained model: an untrained one has ties everywhere
    sites.apply(net, QuantizationConfig(quantizer=quantizer))
    return export(net, config, Lexicon(WORDS, 20, {}, "words"), tmp_path / "artifact", {})


@pytest.mark.parametrize("model", [{}, {"normalize_embeddings": True, "self_conditioning": True},
                                   {"rounding": "cosine"}])
@pytest.mark.parametrize("quantizer", ["uniform:4", "ternary_twn", "fixed:Q2i5f"])
def test_a_packed_table_says_what_the_decoded_one_does(tmp_path, quantizer, model):
    folder = artifact(tmp_path, quantizer, **model)
    plain, packed = load(folder, table="decoded"), load(folder, table="packed")
    assert (isinstance(packed.model.word_embedding, PackedTable)
            and not isinstance(plain.model.word_embedding, PackedTable))
    ids = torch.arange(300)[None]
    assert torch.equal(packed.model.embed(ids), plain.model.embed(ids))
    assert torch.equal(packed.model.table(), plain.model.table())
    latent = weights(4, (4, 20, 16)) * 2
    torch.testing.assert_close(packed.model.logits(latent), plain.model.logits(latent), rtol=1e-3, atol=2e-3)
    assert (packed.model.nearest(latent) == plain.model.nearest(latent)).float().mean() > 0.98
    sentences = [one.generate(8, stream("packed", 0)) for one in (plain, packed)]
    assert (sentences[0] == sentences[1]).float().mean() > 0.9


def test_auto_decides_by_the_width_of_rows(tmp_path, monkeypatch):
    folder = artifact(tmp_path, "uniform:4")
    assert not isinstance(load(folder).model.word_embedding, PackedTable)
    monkeypatch.setattr(packed_embedding, "PACKED_FROM", 16)
    monkeypatch.setattr(packed_embedding, "int8_matmul_serves", lambda: True)
    assert isinstance(load(folder).model.word_embedding, PackedTable)
    assert not isinstance(load(folder, run_codes=False).model.word_embedding, PackedTable)
    monkeypatch.setattr(packed_embedding, "int8_matmul_serves", lambda: False)
    assert not isinstance(load(folder).model.word_embedding, PackedTable)


@pytest.mark.parametrize(("quantizer", "message"), [("none", "not quantized"), ("nf4", "cannot stay packed"),
                                                    ("fixed:Q8i8f", "cannot stay packed")])
def test_what_cannot_stay_packed_is_one_line(tmp_path, quantizer, message):
    folder = artifact(tmp_path, quantizer)
    with pytest.raises(UserError, match=f"{message}.*legal: decoded") as error:
        load(folder, table="packed")
    assert "\n" not in str(error.value)
    load(folder)
