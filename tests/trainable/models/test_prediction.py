"""Probabilities of log-probabilities: the numbers of torch's own exp, forward and backward, wherever a sum
can tell."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from spaces.config import GuidanceConfig, PluginRef, SamplingConfig
from trainable.control import length, syntax
from trainable.control.guidance import GradientGuide
from trainable.control.oracles.base import UPOS
from trainable.models.prediction import LEAST_LOG, TOGETHER, Prediction, log_sum, probabilities
from trainable.models.subnormal import flushed, flushing
from trainable.quantization import sites
from trainable.registry import BACKBONES, PROCESSES, TASKS


def posterior(sharpness, seed=0):
    """[3, 7, 40] float32; above a sharpness of some ten, most are below what float32 can hold."""
    logits = torch.randn(3, 7, 40, generator=torch.Generator().manual_seed(seed))
    return (sharpness * logits).log_softmax(-1)


def slope(function, x):
    x = x.detach().requires_grad_(True)
    value = function(x)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return value.detach(), torch.autograd.grad((value * weight).sum(), x)[0]


@pytest.mark.parametrize("sharpness", [1.0, 30.0, 300.0])
def test_no_sum_tells_them_from_exp(sharpness):
    log_probs = posterior(sharpness)
    found, exact = probabilities(log_probs), log_probs.exp()
    held = log_probs > LEAST_LOG
    assert held.all() == (sharpness == 1) and found.amin() > 1e-31
    torch.testing.assert_close(found[held], exact[held], rtol=2e-7, atol=0)
    assert (found - exact)[~held].abs().sum() < 1e-26
    torch.testing.assert_close(found.sum(-1), exact.sum(-1), rtol=2e-7, atol=0)


@pytest.mark.parametrize("sharpness", [1.0, 30.0, 300.0])
def test_tags_and_their_gradients_are_those_by_exp(sharpness, monkeypatch):
    table = {f"w{i}": {UPOS[i % 3]: 0.75, UPOS[3 + i % 5]: 0.25} for i in range(36)}
    counts = syntax.Syntax.of_tags(table, ["START", "END", "UNK", "PAD", *table])
    found = slope(counts.log_tags, posterior(sharpness))
    monkeypatch.setattr(syntax, "probabilities", torch.exp)
    plain = slope(counts.log_tags, posterior(sharpness))
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-24)


@pytest.mark.parametrize("sharpness", [1.0, 30.0, 300.0])
def test_a_log_of_a_sum_is_torchs_own(sharpness):
    log_probs = posterior(sharpness, seed=2)
    log_probs[..., 5:9] = -torch.inf
    found, plain = slope(log_sum, log_probs), slope(lambda x: x.logsumexp(-1), log_probs)
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-24)


@pytest.mark.parametrize("sharpness", [1.0, 30.0, 300.0])
def test_the_mass_of_words_is_told_however_small_it_is(sharpness):
    logits = sharpness * torch.randn(3, 7, 40, generator=torch.Generator().manual_seed(2))
    words, inside = torch.cat([torch.zeros(4), torch.ones(36)]), torch.arange(7) > torch.arange(3)[:, None]

    def told(x):
        return length.word_log_prob(Prediction.of_latents(x, lambda latent: latent), words, inside)

    def plain(x):
        return x.log_softmax(-1)[..., 4:].logsumexp(-1) * inside

    torch.testing.assert_close(slope(told, logits), slope(plain, logits), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("sharpness", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("read", ["log_probs", "probs", "both"])
@pytest.mark.parametrize("texts", [4, TOGETHER + 1])
def test_a_posterior_has_one_gradient(sharpness, read, texts):
    logits = sharpness * torch.randn(texts, 7, 40, generator=torch.Generator().manual_seed(2))
    weight = torch.rand(texts, 7, 40, generator=torch.Generator().manual_seed(3))

    def parts(log_probs, probs, weight):
        ends = [log_probs[..., 1], (probs * weight).sum(-1)]
        return torch.stack(ends if read == "both" else [ends[read == "probs"]])

    def together(x):
        sizes = [1, texts - 1]
        given = zip(Prediction.of_latents(x, lambda latent: latent).split(sizes), weight.split(sizes),
                    strict=True)
        return torch.cat([parts(each.log_probs, each.probs, own) for each, own in given], dim=1)

    def apart(x):
        log_probs = x.log_softmax(-1)
        return parts(log_probs, log_probs.exp(), weight)

    torch.testing.assert_close(slope(together, logits), slope(apart, logits), rtol=1e-5, atol=1e-6)


def test_predictions_are_split_as_they_are_given():
    x0, log_probs, hidden = torch.randn(3, 2, 4), torch.randn(3, 2, 5).log_softmax(-1), torch.randn(3, 2, 6)
    for first, second in (Prediction(x0, log_probs, hidden).split([1, 2]),
                          Prediction.of_latents(log_probs, lambda x: x, hidden, x0).split([1, 2])):
        assert torch.equal(first.x0, x0[:1]) and torch.equal(second.hidden, hidden[1:])
        torch.testing.assert_close(second.log_probs, log_probs[1:])
        torch.testing.assert_close(second.probs, log_probs[1:].exp())


def test_subnormal_numbers_are_0_inside_alone():
    assert not flushing()
    with flushed():
        with flushed():
            assert flushing()
        assert flushing()
    with pytest.raises(KeyError), flushed():
        raise KeyError
    assert not flushing()


@pytest.mark.parametrize("guided", [False, True])
def test_texts_of_a_sharp_posterior_are_the_same_without_them(guided, monkeypatch):
    process = PROCESSES.build(PluginRef(name="gaussian", loss="ce"))
    shape = {"embedding_dim": 8, "hidden": 16, "layers": 1, "heads": 2, "ffn": 16, "time_dim": 8}
    model = BACKBONES.get("diffusion_lm").from_config(
        BACKBONES.params(PluginRef(name="diffusion_lm", **shape)), process.params,
        ["START", "END", "UNK", "PAD", *map(str, range(60))], seed=3)
    targets, seen = [{"length": 3}, {"length": 5}], []

    def drawn():
        guide = GradientGuide(TASKS.build(PluginRef(name="length")), targets, GuidanceConfig(strength=0.1),
                              SimpleNamespace(), 6) if guided else None
        sampling = process.sampling(model, SamplingConfig(steps=6, temperature=0.02))
        return sampling.sample(2, 10, torch.Generator().manual_seed(1), guide)

    plain = model.rounding.at

    def noted(*given):
        seen.append(flushing())
        return plain(*given)

    monkeypatch.setattr(model.rounding, "at", noted)
    found = drawn()
    assert seen and all(seen)
    monkeypatch.setattr(sites, "flushed", contextlib.nullcontext)
    assert torch.equal(found, drawn()) and not all(seen)
