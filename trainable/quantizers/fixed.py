"""True fixed point QmIiF: a uniform grid of step 2^-F that saturates."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainable.quantizers.base import (
    Grid,
    Learned,
    Part,
    Quantizer,
    QuantizerParams,
    finite32,
    straight_through,
)
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits


class FormatParams(QuantizerParams):
    """Integer and fraction bits of a QmIiF format."""

    int_bits: int = Field(0, ge=0, le=8, description="integer bits i: the range is about 2^i")
    frac_bits: int = Field(8, ge=0, le=8, description="fraction bits f")

    @model_validator(mode="after")
    def _has_bits(self) -> FormatParams:
        if self.int_bits + self.frac_bits == 0:
            raise ValueError("Q0i0f has no bits: int_bits + frac_bits must be at least 1")
        return self

    @property
    def form(self) -> str:
        """`Q<int>i<frac>f`."""
        return f"Q{self.int_bits}i{self.frac_bits}f"


class FixedParams(FormatParams):
    sign_bit: Literal["extra", "included"] = Field(
        "extra",
        description="extra: 1 + i + f stored bits, range [-2^i, 2^i); included: i + f bits, half the range")

    @model_validator(mode="after")
    def _has_magnitude(self) -> FixedParams:
        if self.sign_bit == "included" and self.int_bits + self.frac_bits < 2:
            raise ValueError(f"{self.form} with sign_bit included is all sign: int_bits + frac_bits must be "
                             "at least 2")
        return self


class FixedPoint(Quantizer):
    """Fixed point: clip(round(w 2^f), -2^(i+f), 2^(i+f) - 1) / 2^f, rounding half to even; no scale to store.

    With `sign_bit: extra` Q0i8f stores 9 bits, covers [-1, 0.99609375]; with `included` 8 bits, [-0.5,
    0.49609375]. The gradient passes where the weight is within the range and is zero beyond: a weight that
    starts out there stays.
    """

    name = "fixed"
    Params = FixedParams
    params: FixedParams

    def __init__(self, params: FixedParams):
        super().__init__(params)
        self.bits = params.int_bits + params.frac_bits + (params.sign_bit == "extra")
        self.step = 2.0**-params.frac_bits
        self.lowest, self.highest = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1

    @classmethod
    def examples(cls) -> list[FixedParams]:
        formats = [(0, 8), (0, 4), (4, 0), (8, 0), (4, 4), (8, 8), (0, 1), (1, 2)]
        extra = [FixedParams(int_bits=i, frac_bits=f) for i, f in formats]
        formats = [(0, 8), (1, 7), (8, 8), (1, 1)]
        return extra + [FixedParams(int_bits=i, frac_bits=f, sign_bit="included") for i, f in formats]

    @property
    def label(self) -> str:
        return self.params.form + ("_sign_included" if self.params.sign_bit == "included" else "")

    @property
    def grid(self) -> Grid:
        return Grid(1 << self.bits, self.lowest * self.step, self.highest * self.step, self.step)

    def _levels(self, values: Tensor) -> Tensor:
        """Float32 -> the number of steps from zero, whole, as float32 (exact: at most 17 bits)."""
        return (values / self.step).round_().clamp_(self.lowest, self.highest)

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        low, high = self.lowest * self.step, self.highest * self.step
        # Between 2^23 and 2^24 steps float32 holds whole steps only: adding 1.5 * 2^23 of them rounds,
        # half to even, and taking them away again leaves no -0. At most 2^16 steps are added,
        # so that this is exact.
        whole = 1.5 * 2.0**23 * self.step
        return straight_through(w, w.detach().float().clamp(low, high).add_(whole).sub_(whole), low, high)

    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        levels = self._levels(finite32(w)).flatten()
        return {"codes": pack_bits((levels - self.lowest).int(), self.bits)}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        codes = unpack_bits(self.checked(packed, shape)["codes"], self.bits, shape[0] * shape[1])
        return (codes + self.lowest).float().view(shape) * self.step

    def integer_rows(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        if self.bits > 8:
            return None
        codes = unpack_bits(self.checked(packed, shape)["codes"], self.bits, shape[0] * shape[1])
        scale = torch.full((shape[0], 1), self.step, device=codes.device)
        return (codes + self.lowest).to(torch.int8).view(shape), scale

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        return {"codes": Part(torch.uint8, bits_bytes(shape[0] * shape[1], self.bits))}
