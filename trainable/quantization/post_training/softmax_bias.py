"""Correction of the bias that rounding the softmax brings (arXiv 2309.01729).

Most attention probabilities are below half a level and become 0, so rows no longer sum to 1. The mean of what
is lost, beta = mean(p - Q(p)), is added back at decoding: per head or for all heads, and for each interval of
the noise level.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.quantization.post_training.attention import round_probabilities
from trainable.quantization.post_training.corrections import Correction
from trainable.quantization.post_training.running import AttentionRounding
from trainable.registry import Params

if TYPE_CHECKING:
    from trainable.quantization.post_training.block import Block


class SoftmaxBiasParams(Params):
    bits: int = Field(8, ge=2, le=8, description="of an attention probability")
    per: Literal["head", "tensor"] = Field("head", description="what shares a correction")
    correct: bool = Field(True, description="add the mean of what rounding loses")


class BiasSums:
    """Sums of what rounding takes from the probabilities of each head, by interval of the noise level."""

    def __init__(self, params: SoftmaxBiasParams, heads: int, intervals: int = 1):
        self.params = params
        self.lost = torch.zeros(intervals, heads, dtype=torch.double)
        self.count = torch.zeros(intervals, dtype=torch.long)

    def round(self, probabilities: Tensor) -> Tensor:
        """`round_probabilities` at the configured bits: without correction."""
        return round_probabilities(probabilities, self.params.bits)

    @torch.no_grad()
    def add(self, probabilities: Tensor, interval: int = 0, keys: Tensor | None = None) -> None:
        """Count full-precision probabilities [B, heads, queries, keys]; `keys` bool, [B, keys] or [B or 1, 1,
        queries, keys], leaves padding out."""
        if probabilities.shape[1] != self.lost.shape[1]:
            raise ValueError(f"softmax bias of {self.lost.shape[1]} heads: found {probabilities.shape[1]}")
        if not torch.isfinite(probabilities).all():
            raise UserError("softmax bias: attention probabilities hold NaN or infinity")
        lost = (probabilities - self.round(probabilities)).double()
        there = torch.ones_like(lost[:, :1], dtype=torch.bool) if keys is None else _wide(keys)
        there = there.expand_as(lost[:, :1])
        self.lost[interval] += (lost * there).sum((0, 2, 3)).cpu()
        self.count[interval] += int(there.sum())

    def merge(self, other: BiasSums) -> None:
        """Add what another worker has counted."""
        self.lost += other.lost
        self.count += other.count

    @property
    def beta(self) -> Tensor:
        """Correction of each interval and head, float64 [intervals, heads]; where nothing was counted that of
        all intervals together."""
        if not self.params.correct:
            return torch.zeros_like(self.lost)
        whole = self.lost.sum(0) / self.count.sum().clamp(min=1)
        mean = torch.where(self.count[:, None] > 0, self.lost / self.count.clamp(min=1)[:, None], whole)
        return mean if self.params.per == "head" else mean.mean(1, keepdim=True).expand_as(mean)

    def fake_quantize(self, probabilities: Tensor, intervals: Tensor | int = 0,
                      keys: Tensor | None = None) -> Tensor:
        """Probabilities [B, heads, queries, keys], interval of each row [B] -> rounded and corrected, same
        dtype."""
        rounded = self.round(probabilities)
        rows = torch.as_tensor(intervals).expand(len(probabilities)).cpu()
        beta = self.beta[rows].to(rounded.device, rounded.dtype)[:, :, None, None]
        return rounded + (beta if keys is None else beta * _wide(keys))


def _wide(keys: Tensor) -> Tensor:
    return keys[:, None, None] if keys.ndim == 2 else keys


class SoftmaxBias(Correction):
    """Attention probabilities rounded, with the mean of what that loses added back."""

    name = "softmax_bias"
    Params = SoftmaxBiasParams
    attention = True
    by_interval = True
    params: SoftmaxBiasParams

    def finish(self, block: Block) -> None:
        """One pass over the states, by the block as it has been rounded."""
        if block.parts is None:
            return
        sums: BiasSums | None = None
        features = 0

        def count(probabilities: Tensor, values: Tensor, allowed: Tensor | None) -> None:
            nonlocal sums, features
            if sums is None:
                sums = BiasSums(self.params, probabilities.shape[1], len(block.intervals))
                features = values.shape[-1]
            rows = block.intervals.index(block.noise.level) if len(block.intervals) > 1 else None
            for interval in block.intervals:
                own = slice(None) if rows is None else rows == interval
                keys = allowed if allowed is None or len(allowed) == 1 else allowed[own]
                sums.add(probabilities[own], interval, keys)

        block.look(count)
        assert sums is not None
        old = block.attended().rounding
        rounding = AttentionRounding(sums.lost.shape[1], features) if old is None else old
        block.let_attend(replace(rounding, softmax_bits=self.params.bits, beta=sums.beta.float()))
