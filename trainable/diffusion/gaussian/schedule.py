"""Noise schedules: how much of the clean latent is left at each time.

A schedule is a function alpha_bar(u), u in [0, 1]; T steps are cut from it as in the released Diffusion-LM
code: beta_i = min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), 0.999).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainable.diffusion.noise import Noise, Streams


def sqrt_schedule(u: float) -> float:
    """Diffusion-LM, appendix A: 1 - sqrt(u + 0.0001)."""
    return 1 - math.sqrt(u + 1e-4)


def cosine_schedule(u: float) -> float:
    """Nichol & Dhariwal (arXiv 2102.09672): cos^2 of (u + 0.008) / 1.008 * pi / 2."""
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


SCHEDULES = {"sqrt": sqrt_schedule, "cosine": cosine_schedule}


@dataclass(frozen=True)
class Schedule:
    """`alpha_bar` [T] float64: share of variance that is signal at times 0..T-1, decreasing.

    In float32 the differences of neighboring times, which samplers and the bound take, would be off by 1e-4.
    """

    alpha_bar: Tensor

    @classmethod
    def make(cls, name: str, timesteps: int) -> Schedule:
        """Cut `timesteps` steps from the named schedule, in float64."""
        curve = SCHEDULES[name]
        grid = np.array([curve(i / timesteps) for i in range(timesteps + 1)])
        with np.errstate(divide="ignore"):  # the sqrt curve reaches 0 one of 10,000 steps before the end
            betas = np.minimum(1 - grid[1:] / grid[:-1], 0.999)
        return cls(torch.tensor(np.cumprod(1 - betas), dtype=torch.float64))

    @property
    def timesteps(self) -> int:
        return len(self.alpha_bar)

    def noise(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """q(x_t | x_0): [B, L, d] clean latents at times t [B] or [B, L] -> noisy latents
        of the same shape."""
        return self.mixed(x0, t, randn(x0.shape, generator, x0.device, x0.dtype))

    def mixed(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The same with noise [B, L, d] that was drawn."""
        alpha_bar = per_position(self.alpha_bar.to(x0.device)[t])
        signal, std = alpha_bar.sqrt().to(x0.dtype), (1 - alpha_bar).sqrt().to(x0.dtype)
        return signal * x0 + std * noise.to(x0.dtype)

    def times(self, steps: int) -> list[int]:
        """`steps` distinct times from T-1 down to 0, evenly spaced (all of them when steps >= T).

        One step is T-1: sampling begins with noise alone, and the model has to know.
        """
        count, last = min(steps, self.timesteps), self.timesteps - 1
        return [int(t) for t in np.linspace(0 if count > 1 else last, last, count).round()[::-1]]


def per_position(values: Tensor) -> Tensor:
    """[B] or [B, L] values -> a shape that broadcasts over [B, L, d]."""
    return values[:, None, None] if values.dim() == 1 else values[..., None]


def randn(shape: Sequence[int], generator: Noise, device: torch.device | str,
          dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal noise from an explicit generator, on any device (drawn where the generator lives)."""
    if isinstance(generator, Streams):
        return torch.cat([randn((rows, *shape[1:]), each, device, dtype)
                          for each, rows in zip(*generator, strict=True)])
    return torch.randn(shape, generator=generator, device=generator.device,
                       dtype=torch.float32).to(device, dtype)
