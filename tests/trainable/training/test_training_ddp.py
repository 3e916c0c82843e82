"""Two processes train one model: real torch.distributed over gloo, quantizers and adapter in place."""

import numpy as np
import pytest
import torch
from ranks import run_two_ranks
from torch import nn

from spaces.config import AdaptConfig, LoraConfig, OptimConfig, QuantizationConfig, RuntimeConfig
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.lora import add_lora, set_trainable
from trainable.quantization.sites import apply
from trainable.training import muon
from trainable.training.loop import TrainingRun

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(12))]
IDS = np.random.default_rng(0).integers(4, 16, size=(40, 6)).astype(np.int32)
STEPS = 6


PADDED = np.where(np.arange(6) < np.arange(40)[:, None] % 6 + 1, IDS, 3).astype(np.int32)
"""Of 1 to 6 positions."""


def train(rank: int, world_size: int, name: str = "adamw", ids: np.ndarray = IDS,
          padding: str = "full") -> dict[str, torch.Tensor]:
    model = DiffusionLM(DiffusionLMConfig(embedding_dim=6, hidden=16, layers=1, heads=2, ffn=16, time_dim=8,
                                          dropout=0.0, self_conditioning=True),
                        GaussianConfig(loss="ce", timesteps=50), WORDS, 1)
    apply(model, QuantizationConfig(quantizer="ternary_twn", sites=("embedding", "attention")))
    add_lora(model, LoraConfig(rank=2))
    set_trainable(model, AdaptConfig())
    run = TrainingRun(model, Gaussian(GaussianConfig(loss="ce", timesteps=50)), ids,
                      OptimConfig(name=name, steps=STEPS, batch_size=8, lr=1e-2, padding=padding),
                      RuntimeConfig(), 7, torch.device("cpu"), rank, world_size)
    run.advance(STEPS)
    return {name: value.detach().clone() for name, value in run.trained.items()}


class Parts(nn.Module):
    """A model of which each step trains one of three parts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.parts, self.at = nn.ModuleList(nn.Linear(6, 1) for _ in range(3)), 0

    def loss(self, model: nn.Module, ids: torch.Tensor, generator: torch.Generator,
             condition: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"loss": self.parts[self.at](ids.float()).square().mean()}


def train_parts(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    model = Parts()

    def draw(step: int) -> None:
        model.at = step % 2  # the last part is never drawn
    run = TrainingRun(model, model, IDS, OptimConfig(steps=4, batch_size=8, lr=1e-2), RuntimeConfig(), 7,
                      torch.device("cpu"), rank, world_size, draw=draw)
    run.advance(4)
    return {name: value.detach().clone() for name, value in run.trained.items()}


def worker(rank: int, folder: str) -> None:
    torch.save(train(rank, 2), f"{folder}/{rank}.pt")
    torch.save(train_parts(rank, 2), f"{folder}/parts-{rank}.pt")
    torch.save(train(rank, 2, ids=PADDED, padding="pairs"), f"{folder}/pairs-{rank}.pt")
    exact = muon.orthogonalized
    muon.orthogonalized = lambda matrices: exact(matrices) * (1 + 1e-3 * rank)  # as by another device
    torch.save(train(rank, 2, "muon"), f"{folder}/muon-{rank}.pt")


@pytest.mark.timeout(240)
def test_two_workers_stay_equal_and_see_different_halves(tmp_path):
    run_two_ranks(worker, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    ours, theirs = (torch.load(tmp_path / f"muon-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(not torch.equal(ours[name], first[name]) for name in ours)
    paired, other = (torch.load(tmp_path / f"pairs-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(paired[name], other[name]) for name in paired)
    alone = train(0, 1)
    # half the batch each, other noise
    assert any(not torch.equal(first[name], alone[name]) for name in first)
    parts, other = (torch.load(tmp_path / f"parts-{rank}.pt", weights_only=True) for rank in (0, 1))
    before = Parts().state_dict()
    assert all(torch.equal(parts[name], other[name]) for name in parts)
    assert {name for name in parts if torch.equal(parts[name], before[name])} == {
        "parts.2.weight", "parts.2.bias"}
