"""Rounding of a layer's inputs: 4 or 8 bits, a scale per token (dynamic) or one found at calibration
(static).

Static ranges and clip ratios may differ between intervals of the noise level and between masked and seen
tokens, whose activations differ in range; the weight is one for all of them. 16 bits means that inputs are
left as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.quantization.post_training.statistics import HISTOGRAM, Statistics
from trainable.quantizers.blocks import SMALLEST
from trainable.registry import Params

RATIOS = tuple(1 - step / 50 for step in range(36))
"""Clip ratios that searches try: 1 down to 0.3."""


class ActivationParams(Params):
    bits: Literal[4, 8, 16] = Field(16, description="of an input of a Linear; 16 = not rounded")
    symmetric: bool = Field(False, description="levels around zero, and no zero point")
    range: Literal["dynamic", "static"] = Field(
        "dynamic", description="dynamic: each token's own range; static: one for all, from calibration")
    clip: float = Field(1.0, gt=0, le=1, description="share of a dynamic range that is kept (QuaRot: 0.9)")
    static_by: Literal["maximum", "quantile", "error"] = Field(
        "error", description="a static range holds all values, a share of them, or loses least")
    quantile: float = Field(
        0.999, gt=0.5, le=1, description="share of the values within a static range by quantile")


class Range(NamedTuple):
    """Ends of the range that codes cover, tensors that broadcast against [..., 1]; low <= 0 <= high."""

    low: Tensor
    high: Tensor


class ActivationCodes(NamedTuple):
    """What an integer product multiplies: codes uint8 [..., in], and scale and zero float32 [..., 1]."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def values(self) -> Tensor:
        """Float32 [..., in]."""
        return (self.codes.float() - self.zero) * self.scale


class ActivationQuantizer:
    """Rounds inputs [..., in] along their last axis; a token's values depend on that token alone."""

    Params = ActivationParams

    def __init__(self, params: ActivationParams):
        self.params = params

    @property
    def top(self) -> float:
        """Largest code."""
        return float((1 << self.params.bits) - 1 - self.params.symmetric)

    def token_range(self, x: Tensor, clip: float | Tensor | None = None) -> Range:
        """Range of each token [..., 1], times `clip`: a number, or ratios [..., 1] such as those of
        `state_ratios`."""
        ratio = self.params.clip if clip is None else clip
        x = x.float()
        if self.params.symmetric:
            high = x.abs().amax(-1, keepdim=True) * ratio
            return Range(-high, high)
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        return Range(low * ratio, high * ratio)

    def encode(self, x: Tensor, ends: Range | None = None) -> ActivationCodes:
        """Inputs -> codes in a given range, by default each token's own. Not at 16 bits."""
        if self.params.bits == 16:
            raise ValueError("activations of 16 bits have no codes")
        if ends is None and self.params.range == "static":
            raise ValueError("static activations need the range that calibration found")
        low, high = self.token_range(x) if ends is None else ends
        if self.params.symmetric:
            high = torch.maximum(high, -low)
            scale = (high / (self.top / 2)).clamp(min=SMALLEST)
            zero = torch.full_like(scale, self.top / 2)
        else:
            scale = (high / self.top - low / self.top).clamp(min=SMALLEST)
            zero = (-low / scale).round_().clamp_(0, self.top)
        codes = (x.float() / scale).round_().add_(zero).clamp_(0, self.top)
        return ActivationCodes(codes.to(torch.uint8), scale, zero)

    def fake_quantize(self, x: Tensor, ends: Range | None = None) -> Tensor:
        """Inputs as they are after rounding, same shape and dtype."""
        return x if self.params.bits == 16 else self.encode(x, ends).values().to(x.dtype)

    def static_range(self, statistics: Statistics) -> Range:
        """One range [1] for all tokens that were counted; needs their histogram, known to 1/32 of a value."""
        if HISTOGRAM not in statistics.needs:
            raise UserError(f"static activations need statistics: {HISTOGRAM}")
        edges, counts = statistics.histogram
        upper = torch.cat([edges[1:], edges[-1:]])
        counted = counts.double()
        if self.params.static_by == "quantile":
            return Range(-self._quantile(upper, counted[1]), self._quantile(upper, counted[0]))
        full = Range(-_largest(upper, counted[1]), _largest(upper, counted[0]))
        if self.params.static_by == "maximum":
            return full
        held = counts.sum(0) > 0  # the highest bins stand for infinity
        middle, counted = (edges[held] + upper[held]) / 2, counted[:, held]
        errors = []
        for ratio in RATIOS:
            ends = Range(full.low * ratio, full.high * ratio)
            lost = [(self.encode(sign * middle, ends).values() - sign * middle).double().square() @ side
                    for sign, side in zip((1.0, -1.0), counted, strict=True)]
            errors.append(float(lost[0] + lost[1]))
        best = RATIOS[min(range(len(errors)), key=errors.__getitem__)]
        return Range(full.low * best, full.high * best)

    def _quantile(self, upper: Tensor, counts: Tensor) -> Tensor:
        """Upper edge of the bin that the quantile of one sign's values falls into, [1]."""
        total = counts.cumsum(0)
        if not total[-1]:
            return upper.new_zeros(1)
        return upper[torch.searchsorted(total, self.params.quantile * total[-1:]).clamp(max=len(upper) - 1)]

    def clip_errors(self, x: Tensor, masked: Tensor, weight: Tensor | None = None) -> Tensor:
        """Inputs [..., in], bool [...], weight [out, in] -> squared error float64 [2, ratios] of seen and
        masked tokens.

        Of the layer's outputs where a weight is given. Errors of several batches add up; `best_ratios` reads
        them.
        """
        tokens, state = x.reshape(-1, x.shape[-1]).float(), masked.reshape(-1).long()
        errors = torch.zeros(2, len(RATIOS), dtype=torch.double, device=x.device)
        for number, ratio in enumerate(RATIOS):
            lost = self.encode(tokens, self.token_range(tokens, ratio)).values() - tokens
            lost = lost if weight is None else lost @ weight.T.float()
            errors[:, number].index_add_(0, state, lost.double().square().sum(1))
        return errors


def _largest(upper: Tensor, counts: Tensor) -> Tensor:
    """Upper edge of the highest bin that holds a value, [1]; 0 where none does."""
    held = counts.nonzero()
    return upper[held[-1]] if len(held) else upper.new_zeros(1)


def best_ratios(errors: Tensor | Sequence[Tensor]) -> tuple[float, float]:
    """Summed `clip_errors` -> the clip ratios of seen and of masked tokens."""
    total = errors if isinstance(errors, Tensor) else torch.stack(tuple(errors)).sum(0)
    seen, masked = total.argmin(1).tolist()
    return RATIOS[seen], RATIOS[masked]


def state_ratios(masked: Tensor, ratios: tuple[float, float]) -> Tensor:
    """Masked positions [...] and the ratios of seen and masked tokens -> ratios [..., 1] for
    `token_range`."""
    return torch.where(masked, ratios[1], ratios[0])[..., None]
