"""Small floating-point numbers, FP4 to FP8: E2M1, E3M0, E4M3, E5M2 and their like, with a scale
or as they are."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainable.quantizers.base import Grid, Learned, Part
from trainable.quantizers.blocks import SMALLEST, BlockParams, BlockScaled, Granularity, best_scale


class Format:
    """ExMy: a sign, x exponent bits, y mantissa bits, subnormals, no infinity; bias 2^(x-1) - 1.

    Two formats have codes that stand for no number, as in torch.float8_e4m3fn and torch.float8_e5m2: E4M3
    lacks its largest code (it ends at 448) and E5M2 its largest exponent (it ends at 57,344).
    """

    def __init__(self, exponent: int, mantissa: int):
        self.exponent, self.mantissa = exponent, mantissa
        self.bits = 1 + exponent + mantissa
        self.bias = (1 << exponent - 1) - 1
        self.smallest_normal = 2.0 ** (1 - self.bias)
        top = {(4, 3): (1 << 7) - 2, (5, 2): (31 << 2) - 1}.get((exponent, mantissa),
                                                                (1 << exponent + mantissa) - 1)
        self.largest = self._value(top)
        self.magnitudes = top + 1

    @property
    def name(self) -> str:
        """`E4M3`."""
        return f"E{self.exponent}M{self.mantissa}"

    def _value(self, code: int) -> float:
        exponent, fraction = code >> self.mantissa, code & (1 << self.mantissa) - 1
        if exponent == 0:
            return fraction * self.smallest_normal / (1 << self.mantissa)
        return 2.0 ** (exponent - self.bias) * (1 + fraction / (1 << self.mantissa))

    def round(self, x: Tensor) -> Tensor:
        """Float32 -> nearest value, half to even, saturating; may give -0."""
        magnitude = x.abs().contiguous()
        power = magnitude.view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)  # 2^floor(log2 |x|)
        step = power.clamp_(self.smallest_normal, self.largest).mul_(2.0**-self.mantissa)
        return (magnitude / step).round_().mul_(step).clamp_(max=self.largest).copysign_(x)

    def codes(self, values: Tensor) -> Tensor:
        """Values of the format, +0 for zero, -> int32: sign bit, exponent, mantissa."""
        magnitude = values.abs().contiguous()
        normal = (magnitude.view(torch.int32) >> 23 - self.mantissa) - (127 - self.bias << self.mantissa)
        small = (magnitude / (self.smallest_normal * 2.0**-self.mantissa)).int()
        code = torch.where(magnitude < self.smallest_normal, small, normal)
        return code + (values < 0).int() * (1 << self.bits - 1)

    def values(self, codes: Tensor) -> Tensor:
        """The reverse of `codes`. Raises ValueError on a code that stands for no number."""
        half = 1 << self.bits - 1
        magnitude = torch.tensor([self._value(code) for code in range(self.magnitudes)], device=codes.device)
        if codes.numel() and int((codes & half - 1).max()) >= self.magnitudes:
            raise ValueError(f"{self.name} codes: expected numbers, found one that stands for none")
        return magnitude[(codes & half - 1).long()] * (1 - 2 * (codes >= half).float())


class FloatLevels(BlockScaled):
    """The numbers of a small float `format` as levels."""

    @property
    @abstractmethod
    def format(self) -> Format:
        """Whose numbers they are."""

    @property
    def bits(self) -> int:
        return self.format.bits

    @property
    def highest(self) -> float:
        return self.format.largest

    @property
    def grid(self) -> Grid:
        return Grid(2 * self.format.magnitudes - 1, None, None, None)

    def _levels(self, scaled: Tensor) -> Tensor:
        return self.format.round(scaled)

    def _codes(self, levels: Tensor) -> Tensor:
        return self.format.codes(levels)

    def _from_codes(self, codes: Tensor) -> Tensor:
        return self.format.values(codes)


class FloatParams(BlockParams):
    exp_bits: int = Field(2, ge=2, le=5, description="exponent bits")
    man_bits: int = Field(1, ge=0, le=4, description="mantissa bits")
    bias: Literal["absmax", "search", "standard"] = Field(
        "absmax",
        description="exponent bias: absmax and search are real numbers, that is, a scale (search: the least "
                    "squared error, as in LLM-FP4); standard: 2^(exp_bits-1) - 1 and no scale")

    @model_validator(mode="after")
    def _fits_a_byte(self) -> FloatParams:
        if 1 + self.exp_bits + self.man_bits > 8:
            raise ValueError(f"E{self.exp_bits}M{self.man_bits} takes {1 + self.exp_bits + self.man_bits} "
                             "bits with its sign; exp_bits + man_bits must be at most 7")
        return self


class SmallFloat(FloatLevels):
    """A sign, exponent bits and mantissa bits, FP4 to FP8: fine steps near zero, coarse ones far out.

    A real-valued exponent bias is the same as a scale: `absmax` sets it so that the largest |w| is
    the largest number, `search` so that the squared error is least (LLM-FP4, arXiv 2310.16836). The gradient
    passes inside the range.
    """

    name = "float"
    Params = FloatParams
    params: FloatParams

    def __init__(self, params: FloatParams):
        super().__init__(params)
        self.scale_kind = params.scale_bits
        self.scaled = params.bias != "standard"
        self.clips = params.bias == "search"
        self.idempotent = params.bias != "search"

    @classmethod
    def examples(cls) -> list[FloatParams]:
        forms = [(2, 1), (3, 0), (4, 3), (5, 2), (2, 3), (3, 2), (3, 4)]
        make = FloatParams
        return [make(exp_bits=e, man_bits=m) for e, m in forms] + [
            make(bias="search"), make(exp_bits=3, man_bits=0, bias="search", granularity="group", group=32),
            make(exp_bits=4, man_bits=3, bias="standard"), make(exp_bits=5, man_bits=2, bias="standard"),
            make(granularity="group", scale_bits=8), make(granularity="tensor", scale_bits=32)]

    @property
    def label(self) -> str:
        params = self.params
        bias = "" if params.bias == "absmax" else f"_{params.bias}"
        return f"fp{self.bits}_{self.format.name}{bias}{params.blocks if self.scaled else ''}"

    @cached_property
    def format(self) -> Format:
        """Of the levels."""
        return Format(self.params.exp_bits, self.params.man_bits)

    @property
    def scope(self) -> Granularity:
        return super().scope if self.scaled else "row"

    @property
    def grid(self) -> Grid:
        return super().grid if self.scaled else super().grid._replace(low=-self.highest, high=self.highest)

    def _scale(self, blocks: Tensor) -> Tensor:
        scale = super()._scale(blocks).clamp(min=SMALLEST)
        return best_scale(blocks, scale, self._levels) if self.params.bias == "search" else scale

    def _rounded(self, scale: Tensor) -> Tensor:
        return super()._rounded(scale) if self.scaled else torch.ones_like(scale)

    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        packed = super().encode(w, learned)
        return packed if self.scaled else {"codes": packed["codes"]}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        packed = self.checked(packed, shape)
        if not self.scaled:
            packed = {**packed, "scale": torch.ones(1, device=packed["codes"].device)}
        return super().decode(packed, shape)

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        parts = super().layout(shape)
        return parts if self.scaled else {"codes": parts["codes"]}
