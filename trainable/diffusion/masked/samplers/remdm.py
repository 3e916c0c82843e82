"""Filling in with a corrector: what is seen may be hidden again."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainable.diffusion.masked.samplers.base import Sampler, SamplerParams, Step
from trainable.diffusion.masked.streams import ORDER, REMASK


class ReMDM(Sampler):
    """Ancestral steps that also hide some tokens again, so that early mistakes can be mended
    (arXiv 2503.00307)."""

    name = "remdm"
    remasks = True

    class Params(SamplerParams):
        """How likely a seen token is hidden again."""

        strategy: Literal["cap", "rescale", "confidence", "loop"] = Field(
            "cap", description="cap: at most eta; rescale: eta times what the process allows; confidence: "
            "the unsure ones rather; loop: eta while t_off < t <= t_on, at a constant share of masks")
        eta: float = Field(0.02, ge=0, le=1, description="0: plain ancestral sampling")
        t_on: float = Field(0.55, gt=0, le=1, description="loop: time at which hiding begins")
        t_off: float = Field(0.05, ge=0, lt=1, description="loop: time at which it ends")
        alpha_on: float = Field(0.9, gt=0, lt=1, description="loop: share of seen tokens meanwhile")

    params: Params

    def plan(self, step: Step) -> Tensor:
        """A masked token is filled with chance (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)."""
        alpha_t, alpha_s, sigma = self._levels(step)
        if self.params.strategy == "confidence":  # sigma is a seen token's; where nothing is seen it is 0
            sigma = torch.zeros_like(sigma)
        fills = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t).clamp(min=1e-12)
        fills = torch.where(step.left == 1, 1.0, fills)
        return step.open & (step.random(ORDER) < fills[:, None])

    def choose(self, step: Step) -> Tensor:
        """As planned."""
        return self.plan(step)

    def remask(self, step: Step) -> Tensor:
        """A seen token is hidden with chance sigma; `confidence`: sigma spread by
        softmax(-probability when filled)."""
        sigma = self._levels(step)[2]
        assert step.fixed is not None
        seen = ~step.open & ~step.fixed
        chance = sigma[:, None].expand(seen.shape)
        if self.params.strategy == "confidence":
            assert step.sureness is not None
            unsure = torch.where(seen, -step.sureness.double(), -torch.inf).softmax(1).nan_to_num(0.0)
            chance = chance * unsure
        return seen & (step.random(REMASK) < chance) & (step.left > 1)[:, None]

    def _levels(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """alpha at t and s, and sigma; [B] each."""
        t, s = step.times
        own = self.params
        if own.strategy == "loop":
            return self._loop(t, s)
        alpha_t, alpha_s = 1 - t, 1 - s
        most = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1)
        if own.strategy == "rescale":
            return alpha_t, alpha_s, own.eta * most
        return (alpha_t, alpha_s,
                (most if own.strategy == "confidence" and own.eta else most.clamp(max=own.eta)))

    def _loop(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From 1 to t_on alpha goes from 0 to alpha_on, stays there until t_off, and goes on to 1."""
        own = self.params

        def alpha(time: Tensor) -> Tensor:
            early = own.alpha_on * (1 - time) / max(1 - own.t_on, 1e-12)
            late = 1 - (1 - own.alpha_on) * time / max(own.t_off, 1e-12)
            return torch.where(time > own.t_on, early, torch.where(time > own.t_off, own.alpha_on, late))
        alpha_t, alpha_s = alpha(t), alpha(s)
        most = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1)
        looping = (t <= own.t_on) & (t > own.t_off)
        return alpha_t, alpha_s, torch.where(looping, most.clamp(max=own.eta), 0.0)
