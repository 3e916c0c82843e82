"""AdamW with moments of 8 bits: beside torch's own and bitsandbytes', what it holds, and that it goes on
exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spaces.config import AdaptConfig, LoraConfig, OptimConfig, QuantizationConfig, RuntimeConfig
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.lora import add_lora, set_trainable
from trainable.quantization.sites import apply
from trainable.quantizers import dynamic_tree
from trainable.training import adamw8bit
from trainable.training.adamw8bit import BLOCK, AdamW8bit
from trainable.training.loop import TrainingRun
from trainable.training.optimizer import adamw

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(60))]
IDS = np.random.default_rng(0).integers(4, 64, size=(64, 12)).astype(np.int32)


def run(states: str, steps: int, **optim) -> TrainingRun:
    """A small adapter on a low-bit body, and what is outside of it."""
    shape = DiffusionLMConfig(embedding_dim=8, hidden=64, layers=1, heads=2, ffn=64, time_dim=16, dropout=0.0)
    process = Gaussian(GaussianConfig(loss="ce", timesteps=50))
    model = DiffusionLM(shape, process.params, WORDS, 1)
    apply(model, QuantizationConfig(quantizer="nf4", sites=("attention", "ffn")))
    add_lora(model, LoraConfig(rank=4))
    set_trainable(model, AdaptConfig())
    settings = OptimConfig(**{"steps": steps, "batch_size": 16, "lr": 3e-3, "states": states, **optim})
    return TrainingRun(model, process, IDS, settings, RuntimeConfig(), 7, torch.device("cpu"))


def held(optimizer: torch.optim.Optimizer, value: Tensor) -> int:
    """Bytes of a parameter's moments."""
    return sum(part.numel() * part.element_size() for name, part in optimizer.state[value].items()
               if name != "step")


def test_after_200_steps_the_loss_is_that_of_float_moments_and_bytes_are_a_quarter():
    """And a second time gives the same bits."""
    found = [learned(states) for states in ("float32", "int8", "int8")]
    (right, _, _), (loss, model, optimizer), (again, other, _) = found
    assert loss == pytest.approx(right, rel=0.03) and right < 0.05
    assert loss == again and all(map(torch.equal, model.parameters(), other.parameters()))
    for value in model.parameters():
        size = held(optimizer, value) / value.numel()
        assert size == (8 if value.ndim == 1 else 2 * (1 + 4 / BLOCK))
    assert 2 * (1 + 4 / BLOCK) == 2.03125


def learned(states: str) -> tuple[float, nn.Module, torch.optim.Optimizer]:
    """A network after 200 steps towards another one: its last loss, as a share of the first."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(64, 32), (64,), (16, 64), (16,)]
    teacher, student = (nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 16)) for _ in range(2))
    with torch.no_grad():
        for value, shape in zip([*teacher.parameters(), *student.parameters()], 2 * shapes, strict=True):
            value.copy_(torch.randn(shape, generator=draw) / shape[-1] ** 0.5)
    x = torch.randn(512, 32, generator=draw)
    with torch.no_grad():
        wanted = teacher(x)
    optimizer, losses = adamw(student.named_parameters(), lr=5e-3, betas=(0.9, 0.98), weight_decay=1e-3,
                              states=states), []
    for step in range(200):
        loss = (student(x[step % 4::4]) - wanted[step % 4::4]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[-1] / losses[0], student, optimizer


def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    whole, before, rest = (run("int8", steps=8, weight_decay=0.1) for _ in range(3))
    whole.advance(8)
    before.advance(5)
    torch.save(before.state(), tmp_path / "state.pt")
    rest.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    rest.advance(8)
    assert all(torch.equal(value, rest.trained[name]) for name, value in whole.trained.items())
    for one, other in zip(whole.optimizer.state.values(), rest.optimizer.state.values(), strict=True):
        assert one.keys() == other.keys()
        for name, part in one.items():
            assert torch.equal(torch.as_tensor(part), torch.as_tensor(other[name])), name
            assert not isinstance(part, Tensor) or part.dtype == other[name].dtype


@pytest.mark.parametrize("states, other", [("int8", "float32"), ("float32", "int8")])
def test_moments_of_another_kind_are_refused_and_nothing_has_changed(states, other):
    before, rest = run(states, steps=4), run(other, steps=4)
    before.advance(2)
    start = {name: value.detach().clone() for name, value in rest.trained.items()}
    with pytest.raises(ValueError, match="not a state of this training: .*(optimizer|another kind)"):
        rest.load_state(before.state())
    damaged = before.state()
    if states == "int8":
        entry = next(entry for entry in damaged["optimizer"]["state"].values() if "exp_avg_scale" in entry)
        entry["exp_avg_scale"] = entry["exp_avg_scale"][:-1]
        with pytest.raises(ValueError, match="moments of another kind"):
            run(states, steps=4).load_state(damaged)
    assert rest.step == 0 and all(torch.equal(value, rest.trained[name]) for name, value in start.items())


def stepped(make, gradients: list[Tensor], shape: tuple[int, ...], **options) -> Tensor:
    value = nn.Parameter(torch.linspace(-1, 1, math.prod(shape)).reshape(shape))
    optimizer = make([("weight", value)], lr=0.01, betas=(0.9, 0.98), **options)
    for gradient in gradients:
        value.grad = gradient
        optimizer.step()
    return value.detach()


def test_the_first_step_is_that_of_torch_and_later_ones_are_near(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    gradients = [torch.randn(20, 33, generator=draw) * torch.rand(20, 1, generator=draw) for _ in range(20)]
    for count, within in ((1, 1e-6), (20, 0.02)):
        right = stepped(adamw, gradients[:count], (20, 33), weight_decay=0.5)
        found = stepped(adamw, gradients[:count], (20, 33), weight_decay=0.5, states="int8")
        assert (found - right).abs().max() < within * max(1, count * 0.01)
    monkeypatch.setattr(adamw8bit, "PIECE", BLOCK)  # three pieces, the last of them short
    assert torch.equal(stepped(adamw, gradients, (20, 33), weight_decay=0.5, states="int8"), found)


def test_vectors_are_stepped_as_torch_does():
    draw = torch.Generator().manual_seed(0)
    gradients = [torch.randn(300, generator=draw) for _ in range(10)]
    right, found = (stepped(adamw, gradients, (300,), states=states) for states in ("float32", "int8"))
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-7)


def test_rows_that_are_seen_rarely_are_not_thrown_far():
    """A table of which most rows get large gradients and one a small one, then none: its second moment is far
    below the least level of its block, and its first is not."""
    gradients = []
    for count in range(30):
        gradient = torch.ones(32, 16)
        gradient[5] = 2e-4 if count == 0 else 0.0
        gradients.append(gradient)
    start = torch.linspace(-1, 1, 32 * 16).reshape(32, 16)
    right, found = (stepped(adamw, gradients, (32, 16), states=states) for states in ("float32", "int8"))
    assert (found[5] - start[5]).abs().max() <= 1.01 * (right[5] - start[5]).abs().max()


def test_levels_without_a_sign_have_their_decades():
    levels = dynamic_tree.levels(signed=False)
    assert len(levels) == 256 == len(levels.unique()) and levels[0] == 0 and levels[-1] == 1
    for place in range(7):
        top = 10.0 ** (place - 6)
        inside = levels[(levels > 0.1 * top) & (levels < top)]
        assert len(inside) == 2 ** (place + 1)
        torch.testing.assert_close(inside.diff(), inside.diff().mean().expand(len(inside) - 1), rtol=1e-3,
                                   atol=0)


def test_levels_and_steps_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    from bitsandbytes.optim import AdamW8bit as Theirs
    assert torch.equal(dynamic_tree.levels(signed=False), functional.create_dynamic_map(signed=False))
    draw = torch.Generator().manual_seed(0)
    values = [nn.Parameter(torch.randn(24, 64, generator=draw)) for _ in range(2)]
    values[1].data.copy_(values[0].data)
    made = [AdamW8bit([{"params": values[:1], "weight_decay": 0.1}], lr=0.01, betas=(0.9, 0.98)),
            Theirs(values[1:], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1, min_8bit_size=BLOCK)]
    for _ in range(5):
        gradient = torch.randn(24, 64, generator=draw)
        for value, optimizer in zip(values, made, strict=True):
            value.grad = gradient.clone()
            optimizer.step()
    own, theirs = (optimizer.state[value] for value, optimizer in zip(values, made, strict=True))
    apart = (values[0] - values[1]).abs()  # it misses the nearest number by a step now and then
    assert apart.max() < 0.005 and (apart > 1e-5).float().mean() < 0.05
    for name, other in (("exp_avg", "state1"), ("exp_avg_sq", "state2")):
        assert (own[name] != theirs[other]).float().mean() < 0.05
