"""Correction of the bias that rounding the softmax brings (arXiv 2309.01729).

Most attention probabilities are below half a level and become 0, so rows no longer sum to 1. The mean of what
is lost, beta = mean(p - Q(p)), is added back at decoding: per head or for all heads, and for each interval of
the noise level.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.registry import Params


class SoftmaxBiasParams(Params):
    bits: int = Field(8, ge=2, le=8, description="of an attention probability")
    per: Literal["head", "tensor"] = Field("head", description="what shares a correction")
    correct: bool = Field(True, description="add the mean of what rounding loses")


class SoftmaxBias:
    """Unsigned rounding of attention probabilities with the mean error added back."""

    name = "softmax_bias"
    Params = SoftmaxBiasParams

    def __init__(self, params: SoftmaxBiasParams, heads: int, intervals: int = 1):
        self.params = params
        self.top = float((1 << params.bits) - 1)
        self.lost = torch.zeros(intervals, heads, dtype=torch.double)
        self.count = torch.zeros(intervals, dtype=torch.long)

    def round(self, probabilities: Tensor) -> Tensor:
        """Values in [0, 1] -> nearest of 2^bits levels that span it, same dtype, without correction."""
        return (probabilities * self.top).round_().clamp_(0, self.top) / self.top

    @torch.no_grad()
    def add(self, probabilities: Tensor, interval: int = 0, keys: Tensor | None = None) -> None:
        """Count full-precision probabilities [B, heads, queries, keys]; `keys` [B, keys] bool leaves padding
        out."""
        if probabilities.shape[1] != self.lost.shape[1]:
            raise ValueError(f"softmax bias of {self.lost.shape[1]} heads: found {probabilities.shape[1]}")
        if not torch.isfinite(probabilities).all():
            raise UserError("softmax bias: attention probabilities hold NaN or infinity")
        lost = (probabilities - self.round(probabilities)).double()
        there = torch.ones_like(lost[:, 0, 0], dtype=torch.bool) if keys is None else keys
        self.lost[interval] += (lost * there[:, None, None]).sum((0, 2, 3)).cpu()
        self.count[interval] += int(there.sum()) * probabilities.shape[2]

    def merge(self, other: SoftmaxBias) -> None:
        """Add what another worker has counted."""
        self.lost += other.lost
        self.count += other.count

    @property
    def beta(self) -> Tensor:
        """Correction of each interval and head, float64 [intervals, heads]; 0 where nothing was counted."""
        mean = self.lost / self.count.clamp(min=1)[:, None]
        return mean if self.params.per == "head" else mean.mean(1, keepdim=True).expand_as(mean)

    def fake_quantize(self, probabilities: Tensor, intervals: Tensor | int = 0,
                      keys: Tensor | None = None) -> Tensor:
        """Probabilities [B, heads, queries, keys], interval of each row [B] -> rounded and corrected, same
        dtype."""
        rounded = self.round(probabilities)
        if not self.params.correct:
            return rounded
        rows = torch.as_tensor(intervals).expand(len(probabilities)).cpu()
        beta = self.beta[rows].to(rounded.device, rounded.dtype)[:, :, None, None]
        return rounded + (beta if keys is None else beta * keys[:, None, None])
