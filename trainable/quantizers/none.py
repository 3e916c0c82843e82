"""No quantization: the arm that every search compares with."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.quantizers.base import Grid, Quantizer, finite32


class NoQuantizer(Quantizer):
    """Weights stay float32, 32 bits each."""

    name = "none"

    @property
    def grid(self) -> Grid:
        return Grid(None, None, None, None)

    def fake_quantize(self, w: Tensor) -> Tensor:
        return w

    def encode(self, w: Tensor) -> dict[str, Tensor]:
        return {"codes": finite32(w).contiguous().clone().view(torch.uint8).flatten()}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        return self._codes(packed, shape).clone().view(torch.float32).view(shape)

    def code_bytes(self, values: int) -> int:
        return 4 * values
