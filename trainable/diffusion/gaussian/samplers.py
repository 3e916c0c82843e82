"""Samplers: how one denoising step goes from time t to an earlier time s, given the predicted x0."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from trainable import registry


class Sampler(ABC):
    """One denoising step over the times that the process picked."""

    name: ClassVar[str]
    Params: ClassVar[type[registry.Params]] = registry.Params

    def __init__(self, params: registry.Params):
        self.params = params

    @abstractmethod
    def step(self, x_t: Tensor, x0: Tensor, alpha_t: float, alpha_s: float) -> tuple[Tensor, float]:
        """Mean [B, L, d] and standard deviation of x_s given x_t and x0.

        `alpha_t` < `alpha_s` are the schedule's alpha_bar at the two times.
        """


class Ancestral(Sampler):
    """Draws with the mean of the forward process's own posterior q(x_s | x_t, x0) (DDPM, arXiv 2006.11239,
    equation 7), and with its variance or that of the step."""

    name = "ancestral"

    class Params(registry.Params):
        variance: Literal["small", "large"] = Field(
            "small", description="small: the posterior's; large: 1 - alpha_t / alpha_s, the step's own beta, "
                                 "as Diffusion-LM was released (fixed-large)")

    params: Params

    def step(self, x_t: Tensor, x0: Tensor, alpha_t: float, alpha_s: float) -> tuple[Tensor, float]:
        ratio = alpha_t / alpha_s
        weight_x0 = math.sqrt(alpha_s) * (1 - ratio) / (1 - alpha_t)
        weight_xt = math.sqrt(ratio) * (1 - alpha_s) / (1 - alpha_t)
        variance = 1 - ratio
        if self.params.variance == "small":
            variance = variance * (1 - alpha_s) / (1 - alpha_t)
        return weight_x0 * x0 + weight_xt * x_t, math.sqrt(variance)


class DDIM(Sampler):
    """Keeps the predicted noise and re-adds a share `eta` of fresh noise (arXiv 2010.02502, equation 12)."""

    name = "ddim"

    class Params(registry.Params):
        eta: float = Field(0.0, ge=0, le=1,
                           description="0 = deterministic; 1 = as much fresh noise as ancestral")

    params: Params

    def step(self, x_t: Tensor, x0: Tensor, alpha_t: float, alpha_s: float) -> tuple[Tensor, float]:
        sigma = self.params.eta * math.sqrt((1 - alpha_s) / (1 - alpha_t) * (1 - alpha_t / alpha_s))
        noise = (x_t - math.sqrt(alpha_t) * x0) / math.sqrt(1 - alpha_t)
        kept = math.sqrt(max(1 - alpha_s - sigma**2, 0.0))
        return math.sqrt(alpha_s) * x0 + kept * noise, sigma
