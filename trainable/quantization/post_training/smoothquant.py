"""SmoothQuant (arXiv 2211.10438): the difficulty of rounding moves from activations with outliers to the
weight.

s_j = max|x_j|^a / max|w_j|^(1 - a). At a = 0 every column of the weight reaches 1, at a = 1 every channel of
the inputs; at a = 1/2 both reach the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from trainable.quantization.post_training.base import Transformed
from trainable.quantization.post_training.grid import GridMethod, GridParams
from trainable.quantization.post_training.maps import ChannelScale
from trainable.quantization.post_training.statistics import ABSOLUTE_MAXIMUM, Statistics


class SmoothQuantParams(GridParams):
    bits: int = Field(8, ge=2, le=8, description="stored bits of a weight")
    alpha: float = Field(
        0.5, ge=0, le=1, description="share of the activations' range that the weight takes over")


class SmoothQuant(GridMethod):
    """Channel scales that even out the ranges of inputs and weight, then rounding to nearest."""

    name = "smoothquant"
    Params = SmoothQuantParams
    params: SmoothQuantParams

    @classmethod
    def examples(cls) -> Sequence[BaseModel]:
        make = SmoothQuantParams
        return [make(), make(alpha=0.0, bits=4), make(alpha=1.0, bits=4, group=8),
                make(alpha=0.8, symmetric=True)]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({ABSOLUTE_MAXIMUM})

    def transform(self, weight: Tensor, statistics: Statistics | None = None) -> Transformed:
        if statistics is None:
            raise ValueError("smoothquant transforms with statistics")
        largest = statistics.absolute_maximum.to(weight.device)
        scale = ChannelScale(smoothing_scale(largest, weight, self.params.alpha))
        return Transformed(scale.weight(weight), (scale,))


def smoothing_scale(absolute_maximum: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """max|x| [in], weight [out, in] -> s [in] float32; 1 where inputs or weight of a channel are all zero."""
    inputs, weights = absolute_maximum.double(), weight.abs().amax(0).double()
    scale = inputs**alpha / weights ** (1 - alpha)
    usable = (inputs > 0) & (weights > 0) & torch.isfinite(scale) & (scale > 0)
    return torch.where(usable, scale, 1.0).float()
