"""Muon: its updates beside torch's own and the exact polar factor, which weights it is for, and states."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spaces.config import AdaptConfig, LoraConfig, OptimConfig, QuantizationConfig, RuntimeConfig, TrialConfig
from spaces.errors import UserError
from spaces.schema import Space
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.diffusion.masked.config import MaskedConfig
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.lora import add_lora, set_trainable
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.masked_lm.config import MaskedLMConfig
from trainable.quantization.sites import apply
from trainable.stages.keys import base_settings
from trainable.training import muon as module
from trainable.training.loop import TrainingRun
from trainable.training.muon import orthogonalized
from trainable.training.optimizer import adamw, hidden_matrices, muon

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(12))]
IDS = np.random.default_rng(0).integers(4, 16, size=(40, 6)).astype(np.int32)
SHAPES = ((8, 8), (24, 8), (8, 24), (5, 8))


def run(name="muon", quantizer="none", body="trainable", **optim) -> TrainingRun:
    """A fresh trial of a small model with an adapter."""
    shape = DiffusionLMConfig(embedding_dim=6, hidden=16, layers=1, heads=2, ffn=32, time_dim=8, dropout=0.0)
    process = Gaussian(GaussianConfig(loss="ce", timesteps=50))
    model = DiffusionLM(shape, process.params, WORDS, 1)
    apply(model, QuantizationConfig(quantizer=quantizer, sites=("embedding", "attention", "ffn")))
    add_lora(model, LoraConfig(rank=2))
    set_trainable(model, AdaptConfig(body=body))
    settings = OptimConfig(**{"name": name, "steps": 6, "batch_size": 8, "lr": 1e-2, **optim})
    return TrainingRun(model, process, IDS, settings, RuntimeConfig(), 7, torch.device("cpu"))


def draws(count: int, shapes=SHAPES, seed: int = 0) -> list[list[Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=draw) for shape in shapes] for _ in range(count)]


def stepped(make, gradients: list[list[Tensor]]) -> list[Tensor]:
    """Weights after steps along given gradients, from the same start."""
    values = [nn.Parameter(value.clone()) for value in draws(1, seed=1)[0]]
    optimizer = make(values)
    for slopes in gradients:
        for value, slope in zip(values, slopes, strict=True):
            value.grad = slope.clone()
        optimizer.step()
    return [value.detach() for value in values]


def named(values) -> dict[str, Tensor]:
    return {f"layer.{i}.weight": value for i, value in enumerate(values)}


def test_steps_are_those_of_torch_but_for_its_half_precision():
    """Three of them, with decay. An update of torch's is right to bfloat16's 3 digits at best."""
    gradients = draws(3)
    theirs = stepped(lambda values: torch.optim.Muon(values, lr=0.02, weight_decay=0.3, momentum=0.9,
                                                     adjust_lr_fn="match_rms_adamw"), gradients)
    ours = stepped(lambda values: muon(named(values).items(), named(values), lr=0.02, betas=(0.9, 0.98),
                                       weight_decay=0.3), gradients)
    for before, right, found in zip(draws(1, seed=1)[0], theirs, ours, strict=True):
        moved = (right - before).norm()
        assert (found - right).norm() < 0.03 * moved and not torch.equal(found, before)


def test_many_matrices_at_once_and_one_by_one_are_the_same(monkeypatch):
    gradients = draws(2)

    def made(values):
        return muon(named(values).items(), named(values), lr=0.02, betas=(0.9, 0.98))

    together = stepped(made, gradients)
    monkeypatch.setattr(module, "TOGETHER", 1)
    for one, other in zip(together, stepped(made, gradients), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (1, 7)])
def test_what_is_orthogonalized_is_near_the_polar_factor(shape):
    """Against an SVD in float64: the same singular vectors, and singular values of 0.65 to 1.25."""
    matrices = torch.randn((3, *shape), generator=torch.Generator().manual_seed(0))
    found = orthogonalized(matrices).double()
    u, _, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    inner = u.mT @ found @ vh.mT
    values = inner.diagonal(dim1=1, dim2=2)
    assert 0.65 < values.min() and values.max() < 1.25
    assert (inner - torch.diag_embed(values)).abs().max() < 1e-4
    assert torch.isfinite(orthogonalized(torch.zeros(1, *shape))).all()


def test_an_update_is_as_large_as_one_of_adamw():
    """Root mean squares, whatever the shape: that is what lets both share a learning rate."""
    gradients = draws(1, shapes := ((64, 64), (64, 256), (256, 64)))
    values = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimizer = muon(named(values).items(), named(values), lr=1.0, betas=(0.9, 0.98))
    for value, slope in zip(values, gradients[0], strict=True):
        value.grad = slope
    optimizer.step()
    assert all(0.15 < value.detach().square().mean().sqrt() < 0.25 for value in values)


def test_what_is_not_hidden_takes_steps_of_adamw_to_the_bit():
    values = {f"{kind}{i}": nn.Parameter(value) for kind in "ab" for i, value in enumerate(draws(1)[0])}
    copies = {name: nn.Parameter(value.detach().clone()) for name, value in values.items()}
    ours = muon(values.items(), [name for name in values if name[0] == "a"], lr=0.01, betas=(0.9, 0.98),
                weight_decay=0.1)
    theirs = adamw(copies.items(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    for slopes in draws(3, seed=2):
        for held in (values, copies):
            for name, value in held.items():
                value.grad = slopes[int(name[1])].clone()
        ours.step()
        theirs.step()
    for name, value in values.items():
        assert torch.equal(value, copies[name]) == (name[0] == "b"), name


def test_it_is_for_matrices_between_layers():
    """Under quantizers for their masters; not for tables, vectors and adapters."""
    trained = run(quantizer="ternary_twn")
    hidden = hidden_matrices(trained.model)
    roles = {re.sub(r".*\.(query|dense|\d)\..*", r"\1", name) for name in hidden}
    assert {"query", "dense", "0", "2"} <= roles and len(hidden) == 6 + 6  # of body; of up, time and down
    assert sum(name.endswith("original") for name in hidden) == 6
    assert not any("embedding" in name or "lora" in name or "bias" in name for name in hidden)
    frozen = run(body="frozen").optimizer.param_groups
    assert len(frozen[0]["params"]) == 6  # the adapters are AdamW's


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_over_words_is_no_hidden_matrix(tied):
    shape = MaskedLMConfig(hidden=16, layers=1, heads=2, ffn=32, tied=tied)
    model = MaskedLM.from_config(shape, MaskedConfig(), [*WORDS, "MASK"])
    assert "head.weight" not in hidden_matrices(model)
    assert ("head.weight" in dict(model.named_parameters())) == (not tied)


def test_a_weight_that_has_no_part_in_a_step_stays():
    values = named([nn.Parameter(value) for value in draws(1)[0]])
    optimizer = muon(values.items(), values, lr=0.1, betas=(0.9, 0.98), weight_decay=0.5)
    before = {name: value.detach().clone() for name, value in values.items()}
    values["layer.1.weight"].grad = torch.ones(24, 8)
    optimizer.step()
    moved = [name for name, value in values.items() if not torch.equal(value, before[name])]
    assert moved == ["layer.1.weight"] and len(optimizer.state) == 1


def test_it_learns_and_a_run_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    whole, before, rest = (run(steps=40, weight_decay=0.1) for _ in range(3))
    first = whole.advance(1)["train_loss"]
    last = whole.advance(40)["train_loss"]
    assert last < 0.9 * first
    before.advance(5)
    torch.save(before.state(), tmp_path / "state.pt")
    rest.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    rest.advance(40)
    assert all(torch.equal(value, rest.trained[name]) for name, value in whole.trained.items())


@pytest.mark.parametrize("name, other", [("muon", "adamw"), ("adamw", "muon")])
def test_a_state_of_another_optimizer_is_refused_and_nothing_has_changed(name, other):
    before, rest = run(name), run(other)
    before.advance(2)
    start = {key: value.detach().clone() for key, value in rest.trained.items()}
    with pytest.raises(ValueError, match="not a state of this training: other groups of the optimizer"):
        rest.load_state(before.state())
    if name == "muon":
        damaged = before.state()
        entry = next(entry for entry in damaged["optimizer"]["state"].values() if module.BUFFER in entry)
        entry[module.BUFFER] = entry[module.BUFFER][:-1]
        with pytest.raises(ValueError, match="moments of another kind"):
            run(name).load_state(damaged)
    assert rest.step == 0 and all(torch.equal(value, rest.trained[key]) for key, value in start.items())


@pytest.mark.parametrize("settings, said", [
    ({"base": {"optim": {"name": "muon", "states": "int8"}}}, "states int8 is adamw's; muon has float32"),
    ({"teacher": {"optim": {"name": "muon"}}}, "name muon is for bases and trials; a teacher has adamw"),
    ({"adapt": {"optim": {"name": "sgd"}}}, "'adamw' or 'muon'")])
def test_where_it_cannot_be_had_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        TrialConfig.model_validate(settings)


@pytest.mark.parametrize("optim, said", [
    ("{name: muon}", "name muon is for bases and trials; a teacher has adamw"),
    ("{padding: batch}", "padding batch is for bases and trials; a teacher never trains on")])
def test_a_space_is_refused_for_its_teacher_when_it_is_read(optim, said):
    with pytest.raises(UserError, match=rf"^space:2: trial\.teacher\.optim: {re.escape(said)}"):
        Space.from_yaml(f"trial:\n  teacher: {{optim: {optim}}}\nsearch: {{lora.rank: {{int: [0, 8]}}}}\n"
                        "objectives: {perplexity: minimize}\nbudget: {trials: 2}")


def test_a_base_of_another_optimizer_is_another_base_and_older_caches_stay_good():
    plain = TrialConfig()
    assert "name" not in base_settings(plain)["base"]["optim"]
    other = plain.model_copy(update={"base": plain.base.model_copy(update={
        "optim": plain.base.optim.model_copy(update={"name": "muon"})})})
    assert base_settings(other)["base"]["optim"]["name"] == "muon"
