"""No quantization: the arm that every search compares with."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable import registry
from trainable.quantizers.base import Grid, Learned, Part, Quantizer, finite32


class NoQuantizer(Quantizer):
    """Weights stay float32, 32 bits each."""

    name = "none"
    Params = registry.Params

    @property
    def grid(self) -> Grid:
        return Grid(None, None, None, None)

    def fake_quantize(self, w: Tensor, learned: Learned | None = None) -> Tensor:
        return w

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        return w

    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        return {"codes": finite32(w).contiguous().clone().view(torch.uint8).flatten()}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        return self.checked(packed, shape)["codes"].clone().view(torch.float32).view(shape)

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        return {"codes": Part(torch.uint8, 4 * shape[0] * shape[1])}
