"""Half-quadratic quantization (HQQ): zero points that suit most weights and let outliers be wrong; needs no
calibration.

Minimizes the sum of |W - W_r|^p, p < 1, over the zero point of each group, by alternating two closed forms:
an error that is allowed to be sparse, and the zero point that fits what is left. The published code returns
the last round, and does not raise beta although it takes the factor; here the factor acts, and each group
keeps its best round. Round 0 is plain rounding with a zero point, so no group is worse than under it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from trainable.quantization.post_training.base import Encoded, PostTraining, Shape
from trainable.quantization.post_training.grid import Grid, GridParams, blocks_of, find_grid, group_size
from trainable.quantization.post_training.statistics import Statistics
from trainable.quantizers.base import Part, finite32
from trainable.quantizers.blocks import load_scale, scale_layout, store_scale
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits
from trainable.registry import Params

LARGEST_ZERO = 65504.0
"""Of float16, as which zero points are stored: with bfloat16's 8 digits, those of 8-bit codes would be half a
level off."""


class HalfQuadraticParams(Params):
    bits: int = Field(4, ge=2, le=8, description="stored bits of a weight")
    group: int = Field(0, ge=0, le=65536, description="inputs of a row that share a scale; 0 = the whole row")
    norm: float = Field(0.7, gt=0, lt=1, description="p of the error |W - W_r|^p")
    beta: float = Field(10.0, gt=0, description="weight of the quadratic half in the first round")
    growth: float = Field(1.01, ge=1, description="factor of beta from round to round")
    rounds: int = Field(20, ge=0, le=200, description="alternations; 0 = plain rounding with a zero point")

    @property
    def start(self) -> GridParams:
        """The grid that the first round starts from."""
        return GridParams(bits=self.bits, group=self.group)


class HalfQuadratic(PostTraining):
    """Zero points that minimize a norm below 1 of the weight's error, found without calibration."""

    name = "hqq"
    Params = HalfQuadraticParams
    params: HalfQuadraticParams

    @classmethod
    def examples(cls) -> Sequence[BaseModel]:
        make = HalfQuadraticParams
        return [make(), make(bits=2, group=16), make(bits=8, group=8), make(bits=3, rounds=0)]

    def encode(self, weight: Tensor, statistics: Statistics | None = None) -> Encoded:
        params = self.params
        top = params.start.top
        blocks = blocks_of(finite32(weight), params.group)
        grid = find_grid(blocks, params.start)
        codes = grid.codes(blocks, top)
        best, best_codes, least = grid, codes, self._error(blocks, grid.values(codes))
        first, beta = least.sum(), params.beta
        for _ in range(params.rounds):
            sparse = _shrink(blocks - grid.values(codes), params.norm, beta)
            zero = (codes - (blocks - sparse) / grid.scale).mean(-1, keepdim=True)
            grid = Grid(grid.scale, zero.clamp(-LARGEST_ZERO, LARGEST_ZERO).half().float())
            codes = (blocks / grid.scale + grid.zero).round_().clamp_(0, top)  # zero is no longer whole
            error = self._error(blocks, grid.values(codes))
            better = error < least
            best = Grid(best.scale, torch.where(better, grid.zero, best.zero))
            best_codes = torch.where(better, codes, best_codes)
            least = torch.minimum(error, least)
            beta *= params.growth
        parameters = {**store_scale(best.scale, 16), "zero": best.zero.flatten().half()}
        share = float(least.sum() / first) if first > 0 else 1.0
        packed = pack_bits(best_codes.flatten().int(), params.bits)
        return Encoded(packed, parameters, {"share_of_plain_error": share})

    def _error(self, blocks: Tensor, values: Tensor) -> Tensor:
        return (blocks - values).abs_().double().pow_(self.params.norm).sum(-1, keepdim=True)

    def decode(self, encoded: Encoded, shape: Shape) -> Tensor:
        self.check(encoded, shape)
        size = group_size(shape[1], self.params.group)
        codes = unpack_bits(encoded.codes, self.params.bits, math.prod(shape)).float().view(-1, size)
        zero = encoded.parameters["zero"].float()[:, None]
        return ((codes - zero) * load_scale(encoded.parameters, 16)).view(shape)

    def layout(self, shape: Shape) -> dict[str, Part]:
        groups = shape[0] * (shape[1] // group_size(shape[1], self.params.group))
        return {"codes": Part(torch.uint8, bits_bytes(math.prod(shape), self.params.bits)),
                **scale_layout(groups, 16), "zero": Part(torch.float16, groups)}


def _shrink(error: Tensor, norm: float, beta: float) -> Tensor:
    """The proximal step of |.|^p: sign(e) max(0, |e| - |e|^(p - 1) / beta)."""
    size = error.abs()
    return error.sign() * (size - size.clamp(min=1e-30).pow_(norm - 1) / beta).clamp_(min=0)
