"""Uniform integers times a scale: symmetric or affine, from the data or learned (LSQ, PAMS)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainable.quantizers.base import LARGEST, Grid, IntegerGroups, Learned, Part, finite32, shape_of
from trainable.quantizers.blocks import (
    SMALLEST,
    BlockParams,
    IntegerLevels,
    best_scale,
    count,
    join,
    load_scale,
    split,
    store_scale,
)
from trainable.quantizers.gradients import scale_gradient, straight_through
from trainable.quantizers.packing import pack_bits, unpack_bits

LARGEST_LOG = 88.7
"""e to this is below float32's largest."""


class UniformParams(BlockParams):
    bits: int = Field(4, ge=2, le=8, description="stored bits of a value, the sign included")
    scale: Literal["absmax", "mse", "lsq", "pams"] = Field(
        "absmax", description="absmax: the largest |w| fits; mse: least squared error; lsq, pams: "
                              "learned with the weights")
    symmetric: bool = Field(True, description="false: a zero point per scale, for ranges off center")

    @model_validator(mode="after")
    def _learned_is_symmetric(self) -> UniformParams:
        if not self.symmetric and self.scale != "absmax":
            raise ValueError(f"scale {self.scale} is symmetric; write symmetric: true, or scale: absmax")
        if self.scale in ("lsq", "pams") and self.scale_bits == 8:
            raise ValueError("scale_bits 8 ties scales to each other, so they cannot be learned; "
                             "legal: 16, 32")
        return self


class Uniform(IntegerLevels):
    """Evenly spaced levels: s clip(round(w / s), -Q, Q), Q = 2^(bits-1) - 1; or with a zero
    point, 2^bits levels.

    `lsq` learns s with the gradient of LSQ (arXiv 1902.08153): round(w/s) - w/s inside, -Q or Q outside,
    times 1/sqrt(n Q), from 2 mean|w| / sqrt(Q). `pams` learns the clip a = Q s (arXiv 2011.04212): sign(w)
    outside, 0 inside, from max|w|. Both learn the logarithm, so that a step is relative to the scale (TQT,
    arXiv 1903.08066).
    """

    name = "uniform"
    Params = UniformParams
    params: UniformParams

    def __init__(self, params: UniformParams):
        super().__init__(params)
        self.scale_kind = params.scale_bits
        self.clips = params.scale != "absmax"
        self.learns = params.scale in ("lsq", "pams")
        self.sides = 1 if params.symmetric else 2

    @classmethod
    def examples(cls) -> list[UniformParams]:
        make = UniformParams
        return [make(), make(bits=8), make(bits=2, scale="mse"),
                make(bits=3, granularity="tensor", scale_bits=32),
                make(granularity="group", group=32, scale_bits=8), make(scale="lsq"),
                make(scale="lsq", granularity="tensor"), make(bits=3, scale="pams", granularity="group"),
                make(symmetric=False), make(bits=8, symmetric=False, granularity="group"),
                make(bits=5, scale="mse")]

    @property
    def label(self) -> str:
        params = self.params
        scale = "" if params.scale == "absmax" else f"_{params.scale}"
        return f"int{params.bits}{'' if params.symmetric else '_affine'}{scale}{params.blocks}"

    @property
    def idempotent(self) -> bool:  # type: ignore[override]  # a constant in other families
        return self.learns or (self.params.scale == "absmax" and self.params.symmetric)

    @property
    def bits(self) -> int:
        return self.params.bits

    @property
    def highest(self) -> float:
        """Q, or with a zero point the number of steps from the lowest level to the highest."""
        steps = (1 << self.bits) - 1
        return float(steps // 2 if self.params.symmetric else steps)

    @property
    def grid(self) -> Grid:
        return Grid((1 << self.bits) - self.params.symmetric, None, None, None)

    def fit(self, w: Tensor) -> dict[str, Tensor]:
        if not self.learns:
            return {}
        size = split(finite32(w), *self._where)
        if self.params.scale == "lsq":
            start = 2 * size.abs().double().mean(1).float() / math.sqrt(self.highest)
        else:
            start = size.abs().amax(1)
        return {"log_scale": start.clamp(min=SMALLEST).log()}

    def _scale(self, blocks: Tensor) -> Tensor:
        if not self.params.symmetric:
            low, high = blocks.amin(1, keepdim=True).clamp(max=0), blocks.amax(1, keepdim=True).clamp(min=0)
            return high / self.highest - low / self.highest
        scale = super()._scale(blocks).clamp(min=SMALLEST)
        return best_scale(blocks, scale, self._levels) if self.params.scale == "mse" else scale

    def _zero(self, blocks: Tensor, scale: Tensor) -> Tensor:
        """[blocks, 1] the code that stands for zero."""
        return (-blocks.amin(1, keepdim=True).clamp(max=0) / scale).round_().clamp_(0, self.highest)

    def _parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        if self.params.symmetric:
            return super()._parts(w)
        blocks = split(w, *self._where)
        scale = self._rounded(self._scale(blocks))
        zero = self._zero(blocks, scale)
        return ((blocks / scale).round_() + zero).clamp_(0, self.highest).sub_(zero).add_(0.0), scale

    def _learned(self, blocks: Tensor, learned: Learned) -> tuple[Tensor, Tensor]:
        """Quantized values, differentiable in what is learned, and the stored scale [blocks, 1]."""
        size = learned["log_scale"].float()[:, None].clamp(math.log(SMALLEST), LARGEST_LOG).exp()
        if self.params.scale == "lsq":
            size = scale_gradient(size, 1 / math.sqrt(blocks.shape[1] * self.highest))
            scale = straight_through(size, self._rounded(size.detach()))
            scaled = (blocks / scale).clamp(-self.highest, self.highest)
            return straight_through(scaled, scaled.detach().round().add_(0.0)) * scale, scale.detach()
        scale = self._rounded(size.detach() / self.highest)
        inside = torch.minimum(torch.maximum(blocks, -size), size)
        return straight_through(inside, self._levels(blocks / scale).add_(0.0) * scale), scale

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        if not self.learns:
            return super()._quantize(w, learned)
        blocks = split(w.detach().float(), *self._where)
        values, scale = self._learned(blocks, learned or self.fit(w))
        inside = join(blocks.abs() <= scale * self.highest, shape_of(w))
        return straight_through(w, join(values, shape_of(w)), mask=inside)

    def _finite(self, values: Tensor) -> Tensor:
        # a rounded zero point can pass it
        return values if self.params.symmetric else values.clamp_(-LARGEST, LARGEST)

    @torch.no_grad()
    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        blocks = split(finite32(w), *self._where)
        if self.learns:
            _, scale = self._learned(blocks, learned or self.fit(w))
            levels = self._levels(blocks / scale)
        else:
            levels, scale = self._parts(finite32(w))
        zero = None if self.params.symmetric else self._zero(blocks, scale)
        codes = join(levels + (self.highest if zero is None else zero), shape_of(w)).flatten().int()
        packed = {"codes": pack_bits(codes, self.bits), **store_scale(scale, self.scale_kind)}
        return packed if zero is None else {**packed, "zero": zero.flatten().to(torch.uint8)}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        packed = self.checked(packed, shape)
        codes = split(unpack_bits(packed["codes"], self.bits, math.prod(shape)).float().view(shape),
                      *self._where)
        zero = self.highest if self.params.symmetric else packed["zero"].float()[:, None]
        return self._finite(join((codes - zero) * load_scale(packed, self.scale_kind), shape))

    def integer_rows(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        if not self.params.symmetric or self.params.granularity == "group":
            return None
        packed = self.checked(packed, shape)
        levels = unpack_bits(packed["codes"], self.bits, math.prod(shape)).sub_(int(self.highest))
        return levels.to(torch.int8).view(shape), load_scale(packed, self.scale_kind).expand(shape[0], 1)

    def integer_groups(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> IntegerGroups | None:
        size = {"row": shape[1], "group": self.params.group}.get(self.params.granularity)
        if size is None and self.params.symmetric:
            return super().integer_groups(packed, shape)
        if size is None or shape[1] % size:
            return None  # a zero point for all rows; groups that span rows
        packed = self.checked(packed, shape)
        middle = int(self.highest) if self.params.symmetric else 1 << self.bits - 1
        levels = (unpack_bits(packed["codes"], self.bits, math.prod(shape)) - middle).to(torch.int8)
        zero = None if self.params.symmetric else (packed["zero"].int() - middle).to(torch.int8)
        return IntegerGroups(levels.view(shape), load_scale(packed, self.scale_kind).view(shape[0], -1),
                             None if zero is None else zero.view(shape[0], -1), self.bits)

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        parts = super().layout(shape)
        if self.params.symmetric:
            return parts
        return {**parts, "zero": Part(torch.uint8, count(shape, *self._where))}
