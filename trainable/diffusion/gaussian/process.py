"""Gaussian diffusion in embedding space (Diffusion-LM, arXiv 2205.14217) as a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spaces.config import SamplingConfig
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.likelihood import bound_parts
from trainable.diffusion.gaussian.losses import training_loss
from trainable.diffusion.gaussian.sampling import GaussianSampling
from trainable.diffusion.gaussian.schedule import Schedule
from trainable.diffusion.process import Process, Trainable
from trainable.diffusion.step_graphs import WORTH, StepGraphs, trains_as_graphs
from trainable.registry import GAUSSIAN_SAMPLERS

if TYPE_CHECKING:
    from trainable.models.diffusion_lm.denoiser import DiffusionLM


class Gaussian(Process["DiffusionLM"]):
    """Gaussian noise on word latents, taken away step by step."""

    name = "gaussian"
    Params = GaussianConfig
    samplers = GAUSSIAN_SAMPLERS
    guides = ("gradient", "classifier_free", "both")

    def __init__(self, params: GaussianConfig):
        super().__init__(params)
        self.schedule = Schedule.make(params.schedule, params.timesteps)

    @property
    def levels(self) -> int:
        """`timesteps`."""
        return self.schedule.timesteps

    def loss(self, model: DiffusionLM, ids: Tensor, generator: torch.Generator,
             condition: Tensor | None = None) -> dict[str, Tensor]:
        """See `losses.training_loss`."""
        return training_loss(model, ids, self.schedule, generator, condition)

    def training(self, model: DiffusionLM, steps: int) -> Trainable:
        """Under `ce` as graphs, where they are worth it and can be had."""
        worth = steps >= WORTH and self.params.loss == "ce" and trains_as_graphs(model)
        return GraphedLoss(self.schedule, model) if worth else self

    def corrupt(self, model: DiffusionLM, ids: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """[B, L, d] noisy latents."""
        return self.schedule.noise(model.embed(ids), t, generator)

    def sampling(self, model: DiffusionLM, config: SamplingConfig) -> GaussianSampling:
        """From pure noise to words."""
        return GaussianSampling(model, self.schedule, config)

    def bound(self, model: DiffusionLM, ids: Tensor, count: int,
              generator: torch.Generator) -> dict[str, Tensor]:
        """See `likelihood`."""
        return bound_parts(model, self.schedule, ids, count, generator)


class GraphedLoss:
    """The loss of one model, by graphs of its functions."""

    def __init__(self, schedule: Schedule, model: DiffusionLM):
        self.schedule, self.graphs = schedule, StepGraphs(model)

    def loss(self, model: DiffusionLM, ids: Tensor, generator: torch.Generator,
             condition: Tensor | None = None) -> dict[str, Tensor]:
        """See `losses.training_loss`."""
        self.graphs.begin()
        return training_loss(model, ids, self.schedule, generator, condition, self.graphs)
