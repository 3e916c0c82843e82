"""Levels times a scale: what integer, float, NF4 and shared-exponent formats have in common.

A weight is cut into blocks that share a scale: the whole tensor, each row, or groups of consecutive values
in row-major order (a group may span rows, so that narrow tables need not pay a scale per row; the last group
is padded with zeros).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainable.quantizers import dynamic_tree
from trainable.quantizers.base import (
    LARGEST,
    Grid,
    Learned,
    Part,
    Quantizer,
    QuantizerParams,
    finite32,
    shape_of,
)
from trainable.quantizers.gradients import straight_through
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits

Granularity = Literal["tensor", "row", "group"]
ScaleKind = Literal[8, 16, 32, "power", "double"]

SMALLEST = 2.0**-120
"""Least scale: keeps divisions finite where a block is all zeros or nearly so."""
RUN = 256
"""8-bit scales share the largest of each run of this many (double quantization, QLoRA, arXiv 2305.14314)."""


class BlockParams(QuantizerParams):
    """What shares a scale, and how the scale is stored."""

    granularity: Granularity = Field("row", description="what shares a scale: the tensor, each row, "
                                                        "groups of values")
    group: int = Field(64, ge=4, le=65536, description="values that share a scale, with granularity group")
    scale_bits: Literal[8, 16, 32] = Field(
        16,
        description="of a stored scale: 8 = share of the largest of 256 scales, 16 = bfloat16, 32 = float32")

    @property
    def blocks(self) -> str:
        """Suffix of a label: empty for rows."""
        where = {"row": "", "tensor": "_tensor", "group": f"_g{self.group}"}[self.granularity]
        return where + ("" if self.scale_bits == 16 else f"_s{self.scale_bits}")


def split(w: Tensor, granularity: Granularity, group: int) -> Tensor:
    """[rows, cols] -> contiguous [blocks, size]."""
    if granularity == "row":
        return w.contiguous()
    flat = w.contiguous().view(1, -1)
    return (flat if granularity == "tensor"
            else torch.nn.functional.pad(flat, (0, -flat.numel() % group)).view(-1, group))


def join(blocks: Tensor, shape: tuple[int, int]) -> Tensor:
    """The reverse of `split`."""
    return blocks.reshape(-1)[: shape[0] * shape[1]].view(shape)


def count(shape: tuple[int, int], granularity: Granularity, group: int) -> int:
    """Number of blocks."""
    if granularity == "row":
        return shape[0]
    return 1 if granularity == "tensor" else -(-shape[0] * shape[1] // group)


def scale_layout(blocks: int, kind: ScaleKind) -> dict[str, Part]:
    """The arrays that hold that many scales."""
    if kind == 8:
        return {"scale": Part(torch.uint8, blocks), "scale_top": Part(torch.float32, -(-blocks // RUN))}
    if kind == "double":
        return {**scale_layout(blocks, 8), "scale_mean": Part(torch.float32, 1)}
    return {"scale": Part({16: torch.bfloat16, 32: torch.float32, "power": torch.uint8}[kind], blocks)}


def store_scale(scale: Tensor, kind: ScaleKind) -> dict[str, Tensor]:
    """Scales [blocks, 1], at least `SMALLEST`, -> the arrays of `scale_layout`. `power` takes
    whole powers of two."""
    scale = scale.detach().flatten()
    if kind == "power":
        # E8M0: float32's exponent bits
        return {"scale": (scale.contiguous().view(torch.int32) >> 23).to(torch.uint8)}
    if kind == "double":
        return _double(scale)
    if kind != 8:
        return {"scale": scale.to(scale_layout(1, kind)["scale"].dtype)}
    top = torch.nn.functional.pad(scale, (0, -scale.numel() % RUN)).view(-1, RUN).amax(1)
    share = scale / top.repeat_interleave(RUN)[: scale.numel()]
    return {"scale": (share * 255).round_().clamp_(1, 255).to(torch.uint8), "scale_top": top}


def load_scale(packed: dict[str, Tensor], kind: ScaleKind) -> Tensor:
    """The reverse of `store_scale`, rounded as stored: [blocks, 1] float32."""
    scale = packed["scale"]
    if kind == "power":
        return (scale.int() << 23).view(torch.float32)[:, None]
    if kind == "double":
        top = packed["scale_top"].repeat_interleave(RUN)[: scale.numel()]
        found = dynamic_tree.levels(scale.device)[scale.long()] * top + packed["scale_mean"]
        return found.clamp(SMALLEST, LARGEST * (1 - 2.0**-23))[:, None]
    if kind == 8:
        return (scale.float() / 255 * packed["scale_top"].repeat_interleave(RUN)[: scale.numel()])[:, None]
    return scale.float()[:, None]


def _double(scale: Tensor) -> dict[str, Tensor]:
    """Scales less their mean, in 8 bits a scale of the largest of each run (QLoRA, section 3)."""
    mean = scale.mean()
    if not torch.isfinite(mean):  # the sum of huge scales
        mean = scale.double().mean().float()
    apart = torch.nn.functional.pad(scale - mean, (0, -scale.numel() % RUN)).view(-1, RUN)
    top = apart.abs().amax(1)
    codes = dynamic_tree.nearest(apart / top.clamp(min=SMALLEST)[:, None]).flatten()[: scale.numel()]
    return {"scale": codes, "scale_top": top, "scale_mean": mean[None]}


class BlockScaled(Quantizer):
    """Nearest level to w / scale, times the scale. Gradient passes where w is within the range of
    its block's scale."""

    scale_kind: ScaleKind = 16
    clips = False
    """Whether values may lie beyond the largest level; there the gradient is then zero."""
    sides = 1
    """2 where the levels lie on both sides of a zero point: at the widest range about half
    of them on each."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Of a code."""

    @property
    @abstractmethod
    def highest(self) -> float:
        """Largest level."""

    @abstractmethod
    def _levels(self, scaled: Tensor) -> Tensor:
        """Nearest levels, float32, saturating; may give -0, and may overwrite `scaled`."""

    @abstractmethod
    def _codes(self, levels: Tensor) -> Tensor:
        """Levels, +0 for zero -> int32 codes."""

    @abstractmethod
    def _from_codes(self, codes: Tensor) -> Tensor:
        """The reverse of `_codes`."""

    def _scale(self, blocks: Tensor) -> Tensor:
        """[blocks, size] -> the scale of each, before it is rounded as stored; by default
        the largest |w| fits."""
        return blocks.abs().amax(1, keepdim=True) / self.highest

    @property
    def _where(self) -> tuple[Granularity, int]:
        """What shares a scale."""
        assert isinstance(self.params, BlockParams)
        return self.params.granularity, self.params.group

    @property
    def scope(self) -> Granularity:
        return "tensor" if self.scale_kind in (8, "double") else self._where[0]

    def _rounded(self, scale: Tensor) -> Tensor:
        """The scale as it will be read from disk."""
        return load_scale(self._stored(scale), self.scale_kind)

    def _stored(self, scale: Tensor) -> dict[str, Tensor]:
        """The arrays of scales, within what keeps every value finite."""
        # so that no rounding passes it
        most = (self.sides * LARGEST / max(1.0, self.highest)
                * (1 - 2.0 ** (-8 if self.scale_kind == 16 else -23)))
        return store_scale(scale.clamp(SMALLEST, most), self.scale_kind)

    def _finite(self, values: Tensor) -> Tensor:
        """Levels times scales, which `_rounded` keeps within float32."""
        return values

    def _parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Levels [blocks, size] without -0, and scales [blocks, 1]."""
        blocks = split(w, *self._where)
        scale = self._rounded(self._scale(blocks))
        return self._levels(blocks / scale).add_(0.0), scale

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        levels, scale = self._parts(w.detach().float())
        values = self._finite(join(levels.mul_(scale), shape_of(w)))
        if not self.clips:
            return straight_through(w, values)
        inside = split(w.detach().float(), *self._where).abs() <= scale * self.highest
        return straight_through(w, values, mask=join(inside, shape_of(w)))

    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        levels, scale = self._parts(finite32(w))
        return {"codes": pack_bits(self._codes(join(levels, shape_of(w)).flatten()), self.bits),
                **store_scale(scale, self.scale_kind)}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        packed = self.checked(packed, shape)
        levels = self._from_codes(unpack_bits(packed["codes"], self.bits, math.prod(shape))).view(shape)
        return join(split(levels, *self._where) * load_scale(packed, self.scale_kind), shape)

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        return {"codes": Part(torch.uint8, bits_bytes(math.prod(shape), self.bits)),
                **scale_layout(count(shape, *self._where), self.scale_kind)}


class IntegerLevels(BlockScaled):
    """Whole numbers from -Q to Q = 2^(bits-1) - 1 as levels."""

    @property
    def highest(self) -> float:
        return float((1 << self.bits - 1) - 1)

    @property
    def grid(self) -> Grid:
        return Grid((1 << self.bits) - 1, None, None, None)

    def _levels(self, scaled: Tensor) -> Tensor:
        return scaled.round_().clamp_(-self.highest, self.highest)

    def _codes(self, levels: Tensor) -> Tensor:
        return (levels + self.highest).int()

    def _from_codes(self, codes: Tensor) -> Tensor:
        return codes.float() - self.highest


def best_scale(blocks: Tensor, scale: Tensor, levels: Callable[[Tensor], Tensor], low: float = 0.4,
               tries: int = 13) -> Tensor:
    """Of `tries` shares from `low` to 1 of each block's `scale`, the one with the least squared
    error of `levels`."""
    best, least = scale, torch.full_like(scale, torch.inf)
    unit = blocks.abs().amax(1, keepdim=True).clamp(min=SMALLEST)  # squares of huge values must not overflow
    for share in torch.linspace(1.0, low, tries).tolist():
        trial = (scale * share).clamp(min=SMALLEST)
        error = ((levels(blocks / trial) * trial - blocks) / unit).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, trial, best), torch.minimum(error, least)
    return best
