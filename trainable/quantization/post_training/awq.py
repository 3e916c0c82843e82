"""AWQ (arXiv 2306.00978): channels that see large inputs are scaled up before rounding, so that they lose
less.

s = mean|x|^a divided by sqrt(max s min s), with the a of 0, 0.05, .., 0.95 that loses least output on the
calibration tokens, or a given one; a = 0 is plain rounding, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from trainable.quantization.post_training.base import Transformed
from trainable.quantization.post_training.grid import GridMethod, GridParams
from trainable.quantization.post_training.maps import ChannelScale
from trainable.quantization.post_training.statistics import ABSOLUTE_MEAN, SECOND_MOMENT, Statistics

EXPONENTS = tuple(step / 20 for step in range(20))
LEAST = 1e-4
"""Least mean |x|, as in the published code: a silent channel is not scaled away."""


class AwqParams(GridParams):
    exponent: float | None = Field(
        None, ge=0, le=1, description="of mean |x| in a channel's scale; none = searched for")


class AWQ(GridMethod):
    """Activation-aware scaling of channels, then rounding to nearest."""

    name = "awq"
    Params = AwqParams
    params: AwqParams

    @classmethod
    def examples(cls) -> Sequence[BaseModel]:
        make = AwqParams
        return [make(), make(bits=3, group=16), make(exponent=0.0), make(exponent=0.5, symmetric=True),
                make(clip="search")]

    @property
    def needs(self) -> frozenset[str]:
        searches = self.params.exponent is None
        return frozenset({ABSOLUTE_MEAN, SECOND_MOMENT} if searches else {ABSOLUTE_MEAN})

    def transform(self, weight: Tensor, statistics: Statistics | None = None) -> Transformed:
        if statistics is None:
            raise ValueError("awq transforms with statistics")
        size = statistics.absolute_mean.to(weight.device)
        if self.params.exponent is not None:
            best = channel_scale(size, self.params.exponent)
        else:
            second = statistics.second_moment.to(weight.device, torch.float32)  # it ranks candidates, no more
            scales = [channel_scale(size, exponent) for exponent in EXPONENTS]
            losses = [self._loss(weight, scale, second) for scale in scales]
            best = scales[min(range(len(losses)), key=losses.__getitem__)]
        scale = ChannelScale(best)
        return Transformed(scale.weight(weight), (scale,))

    def _loss(self, weight: Tensor, scale: Tensor, second: Tensor) -> float:
        """Squared error of the outputs: tr(D H D^T), D = Q(W s) / s - W; ranges are cut once s is found."""
        difference = self.round(weight * scale) / scale - weight
        return float(((difference @ second) * difference).sum())


def channel_scale(absolute_mean: Tensor, exponent: float) -> Tensor:
    """Mean |x| [in] -> s [in] float32, its largest and smallest of product 1."""
    scale = absolute_mean.double().clamp(min=LEAST) ** exponent
    return (scale / (scale.max() * scale.min()).sqrt()).float()
