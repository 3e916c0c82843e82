"""The optimizer: what weight decay pulls at, what the settings decide, and states that were saved in one
group."""

import numpy as np
import pytest
import torch

from spaces.config import AdaptConfig, LoraConfig, OptimConfig, QuantizationConfig, RuntimeConfig
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.lora import LEARNED, add_lora, set_trainable
from trainable.quantization.sites import apply
from trainable.training.loop import TrainingRun
from trainable.training.optimizer import adamw, grouped, load_state

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(12))]
IDS = np.random.default_rng(0).integers(4, 16, size=(40, 6)).astype(np.int32)
LEARNING = {"lsq": {"name": "uniform", "scale": "lsq"}, "lut": {"name": "lut", "bits": 2},
            "pams": {"name": "uniform", "scale": "pams", "granularity": "tensor"},
            "vq": {"name": "vq", "entries": 4}}
"""Quantizers that learn: a scale a row or a table, and codebooks."""


def run(quantizer="none", body="trainable", rank=2, variant="lora", **optim) -> TrainingRun:
    """A fresh trial of a small model."""
    shape = DiffusionLMConfig(embedding_dim=6, hidden=16, layers=1, heads=2, ffn=16, time_dim=8, dropout=0.0)
    process = Gaussian(GaussianConfig(loss="ce", timesteps=50))
    model = DiffusionLM(shape, process.params, WORDS, 1)
    apply(model, QuantizationConfig(quantizer=quantizer, sites=("embedding",)))
    add_lora(model, LoraConfig(rank=rank, variant=variant))
    set_trainable(model, AdaptConfig(body=body))
    settings = OptimConfig(**{"steps": 6, "batch_size": 8, "lr": 1e-2, **optim})
    return TrainingRun(model, process, IDS, settings, RuntimeConfig(), 7, torch.device("cpu"))


def weights(trained: TrainingRun) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trained.trained.items()}


@pytest.mark.parametrize("quantizer", ["none", *LEARNING.values()], ids=["none", *LEARNING])
def test_decay_pulls_matrices_and_neither_vectors_nor_what_quantizers_learn(quantizer):
    """One step with decay and one without: what decays is smaller by rate * decay, everything else is equal
    to the bit."""
    plain, decayed = run(quantizer, warmup=0), run(quantizer, warmup=0, weight_decay=0.5)
    start = weights(plain)
    for one in (plain, decayed):
        one.advance(1)
    free, pulled = weights(plain), weights(decayed)
    kinds = {"matrix": 0, "vector": 0, "learned": 0}
    for name, value in start.items():
        kind = "learned" if LEARNED in name else "matrix" if value.ndim > 1 else "vector"
        kinds[kind] += 1
        if kind == "matrix":
            assert torch.allclose(free[name] - pulled[name], 1e-2 * 0.5 * value, atol=1e-6), name
        else:
            assert torch.equal(free[name], pulled[name]), name
    assert kinds["matrix"] and kinds["vector"] and bool(kinds["learned"]) == (quantizer != "none")


def test_a_scale_that_gets_no_gradient_stays_where_it_is():
    """Over many steps, where the old single group would have halved it."""
    scale, matrix, bias = (torch.nn.Parameter(torch.full(shape, 3.0)) for shape in ((5, 1), (5, 5), (5,)))
    named = {f"up.0{LEARNED}table": scale, "up.0.weight": matrix, "up.0.bias": bias}
    optimizer = adamw(named.items(), lr=0.01, weight_decay=1.0)
    for _ in range(100):
        for value in named.values():
            value.grad = torch.zeros_like(value)
        optimizer.step()
    assert torch.equal(scale, torch.full((5, 1), 3.0)) and torch.equal(bias, torch.full((5,), 3.0))
    assert torch.allclose(matrix, torch.full((5, 5), 3.0 * 0.99**100))


def test_magnitudes_of_dora_are_lengths_that_no_decay_pulls_at():
    named = dict(run(body="frozen", variant="dora").trained)
    vectors = [name for name in grouped(named.items())[1] if "lora_magnitude_vector" in name]
    assert len(vectors) == 2 == sum("lora_A" in name for name in named)


def test_a_model_without_matrices_to_train_or_without_vectors_is_trained_too():
    for name, shape in (("bias", (3,)), ("weight", (3, 3))):
        value = torch.nn.Parameter(torch.ones(shape))
        optimizer = adamw([(name, value)], lr=0.1)
        value.grad = torch.ones_like(value)
        optimizer.step()
        assert torch.allclose(value, torch.full(shape, 0.9), atol=1e-6)


def test_betas_are_settings():
    groups = [run(betas=betas).optimizer.param_groups for betas in ((0.9, 0.98), (0.8, 0.999))]
    assert [{group["betas"] for group in found} for found in groups] == [{(0.9, 0.98)}, {(0.8, 0.999)}]
    assert OptimConfig().betas == (0.9, 0.98)


def one_group(whole: TrainingRun) -> None:
    """Give a run the optimizer that there was before: every parameter in one group, in the order of the
    model."""
    whole.optimizer = torch.optim.AdamW(whole.trained.values(), lr=whole.config.lr, betas=(0.9, 0.98),
                                        weight_decay=whole.config.weight_decay, fused=True)


@pytest.mark.parametrize("body", ["trainable", "frozen"])
def test_a_run_goes_on_from_a_state_of_one_group(body):
    quantizer = {"name": "uniform", "scale": "lsq"}
    before, whole = run(quantizer, body), run(quantizer, body)
    one_group(before)
    before.advance(3)
    rest = run(quantizer, body)
    rest.load_state(before.state())
    rest.advance(6)
    whole.advance(6)
    for name, value in weights(whole).items():
        assert torch.equal(value, rest.trained[name]), name
    assert rest.optimizer.state_dict().keys() == whole.optimizer.state_dict().keys()
    assert [len(group["params"]) for group in rest.optimizer.param_groups] == [len(names) for names in
                                                                                grouped(rest.trained.items())]


def test_a_state_of_one_group_takes_the_decay_of_the_groups():
    before, rest = run(weight_decay=0.5), run(weight_decay=0.5)
    one_group(before)
    before.advance(2)
    rest.load_state(before.state())
    assert [group["weight_decay"] for group in rest.optimizer.param_groups] == [0.5, 0.0]


def test_a_state_of_other_parameters_is_refused():
    before, other = run(), run(rank=0)
    one_group(before)
    before.advance(1)
    with pytest.raises(ValueError, match=r"an optimizer of \d+ parameters, not \d+"):
        load_state(other.optimizer, other.trained, before.optimizer.state_dict())
