"""Schedules of masked diffusion: what share of a row is masked at time t, from 0 (none) to 1 (all)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainable.diffusion.masked.config import ScheduleName, Times


@dataclass(frozen=True)
class Schedule:
    """`linear`: share t (MDLM's log-linear noise). `cosine`: share sin(pi t / 2), that is alpha = 1 -
    cos(pi/2 (1 - t)), which lingers where most is masked (dllm, schedulers/alpha.py)."""

    name: ScheduleName = "linear"

    def masked_share(self, t: Tensor) -> Tensor:
        """1 - alpha(t), any shape, in [0, 1]."""
        return t if self.name == "linear" else torch.sin(math.pi / 2 * t)

    def rate(self, t: Tensor) -> Tensor:
        """-alpha'(t): how fast the masked share grows."""
        return torch.ones_like(t) if self.name == "linear" else math.pi / 2 * torch.cos(math.pi / 2 * t)

    def weight(self, t: Tensor, guard: float = 0.0) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)): the weight of cross-entropies in the bound (arXiv 2406.07524,
        equation 10). 1/t under `linear`. `guard` is added to the share (dllm: 1e-6)."""
        return self.rate(t) / (self.masked_share(t) + guard)

    def leaves(self, t: Tensor, s: Tensor) -> Tensor:
        """Chance that what is masked at t is not masked at s < t: 1 - share(s) / share(t); 1 where s is 0."""
        return 1 - self.masked_share(s) / self.masked_share(t)


def draw_times(count: int, how: Times, epsilon: float, generator: torch.Generator) -> Tensor:
    """Times [count] in [epsilon, 1]: (1 - epsilon) u + epsilon, u uniform, or `antithetic`: one u spread
    evenly over the batch, (u + i / count) mod 1 (MDLM)."""
    device = generator.device
    if how == "uniform":
        u = torch.rand(count, generator=generator, device=device)
    else:
        u = ((torch.rand((), generator=generator, device=device) + torch.arange(count, device=device) / count)
             % 1)
    return (1 - epsilon) * u + epsilon
