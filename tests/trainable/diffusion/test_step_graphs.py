"""Training by graphs: weights, losses and averages of the model as it is, bit for bit."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spaces.config import AdaptConfig, LoraConfig, OptimConfig, QuantizationConfig, RuntimeConfig
from trainable.diffusion import step_graphs
from trainable.diffusion.gaussian import process as gaussian
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.losses import draw_times, training_loss
from trainable.diffusion.gaussian.process import Gaussian, GraphedLoss
from trainable.diffusion.step_graphs import WORTH, trains_as_graphs
from trainable.models.checkpointing import checkpoint_blocks
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.lora import add_lora, set_trainable
from trainable.quantization.sites import apply
from trainable.training.loop import TrainingRun

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(12))]
IDS = np.random.default_rng(0).integers(4, 16, size=(40, 6)).astype(np.int32)
SITES = ("embedding", "projection", "attention", "ffn")


class Told:
    """Conditions of two symbols, some of them left out."""

    def at(self, rows, generator):
        return torch.randint(0, 3, (len(rows), 2, 6), generator=generator)


def model_of(symbols=(), **settings):
    shape = dict(embedding_dim=6, hidden=16, layers=2, heads=2, ffn=16, time_dim=8, dropout=0.0,
                 self_conditioning=True, normalize_embeddings=True)
    noise = GaussianConfig(loss="ce", timesteps=50, mixed_times=settings.pop("mixed_times", 0.5))
    return DiffusionLM(DiffusionLMConfig(**{**shape, **settings}), noise, WORDS, 1, symbols), noise


def plain():
    return model_of()


def dropping():
    return model_of(dropout=0.2, mixed_times=0.0, self_conditioning=False)


def adapted(quantizer, body="frozen", **lora):
    def made():
        model, noise = model_of()
        apply(model, QuantizationConfig(quantizer=quantizer, sites=SITES))
        if lora:
            add_lora(model, LoraConfig(targets=("query", "value"), **lora))
        set_trainable(model, AdaptConfig(body=body))
        return model, noise
    return made


MODELS = {"plain": plain, "dropping": dropping,
          "fixed + lora": adapted("fixed:Q2i2f", rank=2, dropout=0.1), "ternary": adapted("ternary_twn"),
          "learned tables": adapted("lut", body="trainable"), "dora": adapted("none", rank=2, variant="dora")}


def run_of(made, steps=WORTH, conditions=None):
    model, noise = made()
    return TrainingRun(model, Gaussian(noise), IDS, OptimConfig(steps=steps, batch_size=8, lr=5e-3, ema=0.9),
                       RuntimeConfig(), 7, torch.device("cpu"), conditions=conditions)


def trained(made, **settings):
    run = run_of(made, **settings)
    torch.manual_seed(3)  # dropout's
    losses = [run.advance(WORTH // 2)["train_loss"], run.advance(WORTH)["train_loss"]]
    return run, losses


@pytest.mark.parametrize("name", MODELS)
def test_training_by_graphs_is_training(name, monkeypatch):
    by_graphs, losses = trained(MODELS[name])
    process = by_graphs.objective.process
    assert isinstance(process, GraphedLoss) and len(process.graphs._graphs) >= 2
    monkeypatch.setattr(gaussian, "trains_as_graphs", lambda model: False)
    as_it_is, expected = trained(MODELS[name])
    assert isinstance(as_it_is.objective.process, Gaussian)
    assert losses == expected and all(np.isfinite(losses))
    for kind in ("trained", "average"):
        for key, value in getattr(as_it_is, kind).items():
            assert torch.equal(getattr(by_graphs, kind)[key], value), key


@pytest.mark.parametrize("quantizer", ["none", "fixed:Q2i2f", "lut"])
def test_an_adapter_is_added_to_a_small_weight(quantizer, monkeypatch):
    """One product for three: equal but for rounding, and no adapter is left merged."""
    made = adapted(quantizer, rank=2)
    by_graphs, losses = trained(made)
    assert any("lora_B" in name and value.any() for name, value in by_graphs.trained.items())
    layer = by_graphs.model.body.layer[0].attention.self.query
    assert not layer.merged and not any(value is layer.lora_B["default"].weight
                                        for value in by_graphs.objective.process.graphs._plain)
    monkeypatch.setattr(gaussian, "trains_as_graphs", lambda model: False)
    as_it_is, expected = trained(made)
    assert losses == pytest.approx(expected, rel=1e-5)
    for key, value in as_it_is.trained.items():
        torch.testing.assert_close(by_graphs.trained[key], value, rtol=1e-3, atol=1e-4)
    monkeypatch.undo()
    monkeypatch.setattr(step_graphs, "MERGED", 0)
    apart, found = trained(made)
    assert found == expected and all(torch.equal(apart.trained[key], value)
                                     for key, value in as_it_is.trained.items())


def test_conditions_are_told(monkeypatch):
    def made():
        return model_of(symbols=("a", "b"))

    by_graphs, losses = trained(made, conditions=Told())
    monkeypatch.setattr(gaussian, "trains_as_graphs", lambda model: False)
    as_it_is, expected = trained(made, conditions=Told())
    assert losses == expected
    assert torch.equal(*(run.model.condition_embedding.weight for run in (by_graphs, as_it_is)))
    assert by_graphs.model.condition_embedding.weight[1:].any()


def test_a_step_is_the_formula():
    """Draws in their order, and `predict` for the first guess, which gets no gradient."""
    model, noise = model_of()
    twin, ids = copy.deepcopy(model), torch.from_numpy(IDS[:8].astype(np.int64))
    schedule, guesses = Gaussian(noise).schedule, 0
    for seed in range(6):
        found = training_loss(model, ids, schedule, torch.Generator().manual_seed(seed))["loss"]
        g = torch.Generator().manual_seed(seed)
        t = draw_times(ids, 50, noise.mixed_times, g)
        told = bool(torch.rand((), generator=g) < 0.5)
        table = twin.table()
        x_t = schedule.noise(F.embedding(ids, table), t, g)
        previous = twin.predict(x_t, t).x0.detach() if told else None
        logits = twin.logits(twin(x_t, t, previous), table)
        wanted = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
        torch.testing.assert_close(found, wanted)
        for own, other in zip(torch.autograd.grad(found, list(model.parameters()), allow_unused=True),
                              torch.autograd.grad(wanted, list(twin.parameters()), allow_unused=True),
                              strict=True):
            torch.testing.assert_close(own, other)
        guesses += told
    assert 0 < guesses < 6


def test_few_steps_and_what_cannot_be_traced_train_as_they_are():
    assert isinstance(run_of(plain, steps=WORTH - 1).objective.process, Gaussian)
    model, noise = model_of()
    assert trains_as_graphs(model)
    checkpoint_blocks(model)
    assert not trains_as_graphs(model)
    watched, _ = model_of()
    watched.up.register_forward_hook(lambda *_: None)
    assert not trains_as_graphs(watched)
    assert isinstance(Gaussian(noise).training(watched, 1000), Gaussian)
