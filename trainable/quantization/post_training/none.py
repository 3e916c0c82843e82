"""Weights kept as they are: for activations that are rounded alone, and for what a transform does by
itself."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.quantization.post_training.base import Encoded, PostTraining, Shape
from trainable.quantization.post_training.statistics import Statistics
from trainable.quantizers.base import Part


class NoRounding(PostTraining):
    """Weights stay float32."""

    name = "none"

    def encode(self, weight: Tensor, statistics: Statistics | None = None) -> Encoded:
        return Encoded(weight.float().contiguous().view(torch.uint8).flatten().clone(), {}, {})

    def decode(self, encoded: Encoded, shape: Shape) -> Tensor:
        self.check(encoded, shape)
        return encoded.codes.view(torch.float32).view(shape).clone()

    def layout(self, shape: Shape) -> dict[str, Part]:
        return {"codes": Part(torch.uint8, 4 * shape[0] * shape[1])}
