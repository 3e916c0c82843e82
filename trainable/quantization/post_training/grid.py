"""The grid of integers that most methods round to: value = (code - zero) scale, one scale per row or group of
inputs.

Rounding is done in float32, in one order of operations, wherever it is done: a method that changes nothing
gives the same bits as plain rounding, and those of quantizer `uniform` (trainable/quantizers/uniform.py) at
the same settings.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.quantization.post_training.base import Encoded, PostTraining, Shape
from trainable.quantization.post_training.statistics import Statistics
from trainable.quantizers.base import LARGEST, IntegerGroups, Part, finite32
from trainable.quantizers.blocks import SMALLEST, load_scale, scale_layout, store_scale
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits
from trainable.registry import Params

CLIPS = tuple(1 - step / 100 for step in range(80))
"""Shares of the range that a clip search tries: QuaRot's, 1 down to 0.21."""
AT_ONCE = 1 << 17
"""Values that a clip search rounds at once: many ratios of a small group, one ratio of a large weight."""
CLIP_NORM = 2.4
"""The search minimizes the sum of |error|^2.4 (GPTQ's and QuaRot's code)."""


class GridParams(Params):
    """The grid of a method."""

    bits: int = Field(4, ge=2, le=8, description="stored bits of a weight")
    group: int = Field(0, ge=0, le=65536, description="inputs of a row that share a scale; 0 = the whole row")
    symmetric: bool = Field(False, description="levels around zero, and no zero point")
    clip: Literal["none", "search"] = Field(
        "none", description="search: the range is cut where that loses least")
    scale_bits: Literal[16, 32] = Field(16, description="of a stored scale: 16 = bfloat16, 32 = float32")

    @property
    def top(self) -> float:
        """Largest code."""
        return float((1 << self.bits) - 1 - self.symmetric)


class Grid(NamedTuple):
    """Scales as stored and zero points, float32 [..., 1] beside the values that they round."""

    scale: Tensor
    zero: Tensor

    def codes(self, values: Tensor, top: float) -> Tensor:
        """Nearest codes, as float32 whole numbers in [0, top]."""
        return (values / self.scale).round_().add_(self.zero).clamp_(0, top)

    def values(self, codes: Tensor) -> Tensor:
        """The reverse of `codes`."""
        return (codes - self.zero) * self.scale


def group_size(width: int, group: int) -> int:
    """Inputs that share a scale. Raises `UserError` where groups do not fill the width."""
    if group and width % group:
        divisors = [each for each in range(4, width + 1) if width % each == 0]
        raise UserError(f"group {group} does not divide a weight of {width} inputs; "
                        f"legal: 0 (whole rows), {', '.join(map(str, divisors))}")
    return group or width


def blocks_of(weight: Tensor, group: int) -> Tensor:
    """[out, in] -> [out, groups, inputs of a group]."""
    return weight.reshape(len(weight), -1, group_size(weight.shape[1], group))


def find_grid(blocks: Tensor, params: GridParams) -> Grid:
    """Values [..., size] float32 -> the grid of each block, with the range cut as `params.clip` says."""
    if params.symmetric:
        high = blocks.abs().amax(-1, keepdim=True)
        low = -high
    else:
        low, high = blocks.amin(-1, keepdim=True).clamp(max=0), blocks.amax(-1, keepdim=True).clamp(min=0)
    best = _grid(low, high, params)
    if params.clip == "none":
        return best
    least = torch.full_like(best.scale, torch.inf)
    shares = torch.tensor(CLIPS, device=blocks.device).view(-1, *[1] * blocks.ndim)
    for some in shares.split(max(1, AT_ONCE // max(1, blocks.numel()))):
        tried = _grid(low * some, high * some, params)
        loss, which = _loss(blocks, tried, params.top).min(0, keepdim=True)
        better = loss[0] < least
        best = Grid(*(torch.where(better, new.gather(0, which)[0], old)
                      for new, old in zip(tried, best, strict=True)))
        least = torch.minimum(loss[0], least)
    return best


def _grid(low: Tensor, high: Tensor, params: GridParams) -> Grid:
    top = params.top
    scale = high / (top / 2) if params.symmetric else high / top - low / top
    scale = scale.clamp(SMALLEST, LARGEST / 4 / top)
    if params.scale_bits == 16:
        scale = scale.bfloat16().float()
    zero = torch.full_like(scale, top / 2) if params.symmetric else (-low / scale).round_().clamp_(0, top)
    return Grid(scale, zero)


def _loss(blocks: Tensor, grid: Grid, top: float) -> Tensor:
    """Relative to the scale of the block, so that powers of huge or tiny values stay finite."""
    unit = blocks.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    errors = (grid.values(grid.codes(blocks, top)) - blocks) / unit
    return errors.abs_().pow_(CLIP_NORM).sum(-1, keepdim=True)


class GridMethod(PostTraining):
    """A method whose codes are integers on a `Grid`; encodes by rounding to nearest."""

    Params: ClassVar[type[Params]] = GridParams
    params: GridParams

    def encode(self, weight: Tensor, statistics: Statistics | None = None) -> Encoded:
        blocks = blocks_of(finite32(weight), self.params.group)
        grid = find_grid(blocks, self.params)
        return self.pack(grid.codes(blocks, self.params.top), grid)

    def round(self, weight: Tensor) -> Tensor:
        """Float32 [out, in] -> what decoding its plainly rounded codes gives where no range is cut."""
        blocks = blocks_of(weight, self.params.group)
        grid = find_grid(blocks, self.params.model_copy(update={"clip": "none"}))
        return grid.values(grid.codes(blocks, self.params.top)).view(weight.shape)

    def pack(self, codes: Tensor, grid: Grid, report: dict[str, float] | None = None) -> Encoded:
        """Codes in row-major order and grid [out, groups, 1] -> what is stored."""
        parameters = store_scale(grid.scale, self.params.scale_bits)
        if not self.params.symmetric:
            parameters["zero"] = grid.zero.flatten().to(torch.uint8)
        return Encoded(pack_bits(codes.flatten().int(), self.params.bits), parameters, report or {})

    def decode(self, encoded: Encoded, shape: Shape) -> Tensor:
        self.check(encoded, shape)
        size = group_size(shape[1], self.params.group)
        codes = unpack_bits(encoded.codes, self.params.bits, math.prod(shape)).float().view(-1, size)
        scale = load_scale(encoded.parameters, self.params.scale_bits)
        zero = self.params.top / 2 if self.params.symmetric else encoded.parameters["zero"].float()[:, None]
        return ((codes - zero) * scale).view(shape)

    def integer_groups(self, encoded: Encoded, shape: Shape) -> IntegerGroups | None:
        self.check(encoded, shape)
        middle = int(self.params.top / 2) if self.params.symmetric else 1 << self.params.bits - 1
        codes = unpack_bits(encoded.codes, self.params.bits, math.prod(shape))
        scale = load_scale(encoded.parameters, self.params.scale_bits).view(shape[0], -1)
        zero = None if self.params.symmetric else encoded.parameters["zero"].int().view(shape[0], -1) - middle
        return IntegerGroups((codes - middle).to(torch.int8).view(shape), scale,
                             None if zero is None else zero.to(torch.int8), self.params.bits)

    def layout(self, shape: Shape) -> dict[str, Part]:
        groups = shape[0] * (shape[1] // group_size(shape[1], self.params.group))
        parts = {"codes": Part(torch.uint8, bits_bytes(math.prod(shape), self.params.bits)),
                 **scale_layout(groups, self.params.scale_bits)}
        return parts if self.params.symmetric else {**parts, "zero": Part(torch.uint8, groups)}
