"""Blocks that share an exponent: block floating point and the OCP microscaling (MX) formats."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainable.quantizers.base import QuantizerParams
from trainable.quantizers.blocks import SMALLEST, BlockScaled, Granularity, IntegerLevels
from trainable.quantizers.floats import FloatLevels, Format

ELEMENTS = {"fp4_e2m1": (2, 1), "fp6_e2m3": (2, 3), "fp6_e3m2": (3, 2), "fp8_e4m3": (4, 3),
            "fp8_e5m2": (5, 2)}


class SharedExponent(BlockScaled):
    """Scales that are powers of two, one byte each (E8M0)."""

    params: BlockFloatParams | MXParams
    scale_kind = "power"

    @property
    def _where(self) -> tuple[Granularity, int]:
        return "group", self.params.block

    def _exponent(self, blocks: Tensor) -> Tensor:
        """2^floor(log2 max|w|) of each block."""
        largest = blocks.abs().amax(1, keepdim=True).clamp(min=SMALLEST)
        return largest.view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)

    def _rounded(self, scale: Tensor) -> Tensor:
        return scale.clamp(min=SMALLEST)  # a power of two already, and below the largest |w|


class BlockFloatParams(QuantizerParams):
    bits: int = Field(4, ge=2, le=8, description="stored bits of a value, the sign included")
    block: int = Field(32, ge=4, le=1024, description="consecutive values that share an exponent")


class BlockFloat(SharedExponent, IntegerLevels):
    """Signed integer mantissas under the exponent of the block's largest |w|: block floating point
    (arXiv 2310.05079)."""

    name = "bfp"
    Params = BlockFloatParams
    params: BlockFloatParams

    @classmethod
    def examples(cls) -> list[BlockFloatParams]:
        return [BlockFloatParams(bits=b, block=k) for b, k in [(4, 32), (8, 32), (2, 16), (3, 8), (6, 64)]]

    @property
    def bits(self) -> int:
        return self.params.bits

    @property
    def label(self) -> str:
        return f"bfp{self.bits}_k{self.params.block}"

    def _scale(self, blocks: Tensor) -> Tensor:
        return self._exponent(blocks) * 2.0 ** (2 - self.bits)


class MXParams(QuantizerParams):
    element: Literal["fp4_e2m1", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2"] = Field(
        "fp4_e2m1", description="format of the elements")
    block: int = Field(32, ge=4, le=1024,
                       description="consecutive values that share a scale; 32 in the standard")


class MX(SharedExponent, FloatLevels):
    """Small floats under a power-of-two scale per block: OCP Microscaling, 4.25 bits with
    FP4 and blocks of 32.

    The scale is 2^(floor(log2 max|w|) - emax), as in the specification (version 1.0): what lies beyond
    the largest element saturates.
    """

    name = "mx"
    Params = MXParams
    params: MXParams

    @classmethod
    def examples(cls) -> list[MXParams]:
        return [MXParams(element=element) for element in ELEMENTS] + [MXParams(block=16)]

    @property
    def label(self) -> str:
        return f"mx{self.params.element}" + ("" if self.params.block == 32 else f"_k{self.params.block}")

    @cached_property
    def format(self) -> Format:
        """Of the elements."""
        return Format(*ELEMENTS[self.params.element])

    def _scale(self, blocks: Tensor) -> Tensor:
        top = torch.tensor(self.highest).view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)
        return self._exponent(blocks) / float(top)
