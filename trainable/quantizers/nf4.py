"""NF4: the quantiles of a normal distribution as levels (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from trainable.quantizers.base import Grid, Learned, finite32
from trainable.quantizers.blocks import SMALLEST, BlockParams, BlockScaled, Granularity, split

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
"""As published: bitsandbytes, torchao and peft use these very numbers."""


class NF4Params(BlockParams):
    granularity: Granularity = Field("group", description="what shares a scale: the tensor, each row, "
                                                          "groups of values")
    double: bool = Field(False, description="QLoRA's double quantization: scales less their mean as 8-bit "
                                            "dynamic tree numbers, in place of scale_bits")


class NF4(BlockScaled):
    """Sixteen levels at the quantiles of a normal distribution, times the largest |w| of a block:
    QLoRA's format.

    With groups of 64 and `double`, 4.127 bits a value, codes and both levels of scales as in QLoRA's
    released code; `scale_bits: 8` has the same size and even shares of the largest scale.
    """

    name = "nf4"
    Params = NF4Params
    params: NF4Params

    def __init__(self, params: NF4Params):
        super().__init__(params)
        self.idempotent = not params.double  # the mean of the scales moves
        self.scale_kind = "double" if params.double else params.scale_bits

    @classmethod
    def examples(cls) -> list[NF4Params]:
        return [NF4Params(), NF4Params(scale_bits=8), NF4Params(double=True), NF4Params(scale_bits=32),
                NF4Params(granularity="row"), NF4Params(granularity="tensor")]

    @property
    def label(self) -> str:
        return f"nf4{self.params.blocks}" + ("_double" if self.params.double else "")

    bits = 4
    highest = 1.0

    @property
    def grid(self) -> Grid:
        return Grid(len(LEVELS), None, None, None)

    def _parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Double quantization chooses levels by the scales before it, as the released code does."""
        if not self.params.double:
            return super()._parts(w)
        blocks = split(w, *self._where)
        scale = self._scale(blocks)
        return self._levels(blocks / scale.clamp(min=SMALLEST)).add_(0.0), self._rounded(scale)

    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        """Scales are stored once, from what they were: a second time would give others."""
        packed = super().encode(w, learned)
        if self.params.double:
            packed |= self._stored(self._scale(split(finite32(w), *self._where)))
        return packed

    def _nearest(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        levels = torch.tensor(LEVELS, device=scaled.device)
        codes = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)
        return levels, codes

    def _levels(self, scaled: Tensor) -> Tensor:
        levels, codes = self._nearest(scaled)
        return levels[codes]

    def _codes(self, levels: Tensor) -> Tensor:
        return self._nearest(levels)[1].int()

    def _from_codes(self, codes: Tensor) -> Tensor:
        return torch.tensor(LEVELS, device=codes.device).index_select(0, codes)
