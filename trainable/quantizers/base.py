"""What a weight quantizer is.

Every quantizer is a pure function of the float32 values of a 2-D weight and of what it has learned about
that weight (a scale, a codebook; nothing in most families). Training sees `fake_quantize`; an artifact holds
`encode`, and `decode` gives back the very same values, bit for bit: what was measured is what is shipped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable import registry
from trainable.quantizers.gradients import clip_gradient, pass_gradient, straight_through

__all__ = ["LARGEST", "Grid", "IntegerGroups", "Part", "Quantizer", "QuantizerParams", "WholeTensor",
           "check_size", "clip_gradient", "finite32", "row_mean", "straight_through"]

LARGEST = torch.finfo(torch.float32).max
MOST_BITS = 16
"""Stored bits a value beyond which a choice is refused: half of float32 can be had without a quantizer."""

Learned = Mapping[str, Tensor]


class Part(NamedTuple):
    """One stored array: its dtype and number of elements."""

    dtype: torch.dtype
    count: int  # type: ignore[assignment]  # a tuple's `count` is of no use here

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self.count * self.dtype.itemsize


class QuantizerParams(registry.Params):
    """What every family takes."""

    gradient: Literal["own", "plain", "clipped", "affine", "rotation"] = Field(
        "own", description="how the gradient passes the quantizer: the family's own rule, or one of those in "
                           "trainable/quantizers/gradients.py")


class Grid(NamedTuple):
    """The values that a quantizer can give. None = set by the row's scale, or (step) not evenly spaced."""

    levels: int | None
    low: float | None
    high: float | None
    step: float | None


class IntegerGroups(NamedTuple):
    """A weight [out, in] as whole numbers, a scale for each row or each group of its inputs: (levels - zero)
    scale. What runtimes with integer products load."""

    levels: Tensor
    """Int8 [out, in], from -2^(bits-1) to 2^(bits-1) - 1."""
    scale: Tensor
    """Float32 [out, groups]."""
    zero: Tensor | None
    """Int8 [out, groups], in the range of the levels; None = symmetric, 0."""
    bits: int

    @property
    def group(self) -> int | None:
        """Inputs that share a scale; None where those of a whole row do."""
        groups = self.scale.shape[1]
        return None if groups == 1 else self.levels.shape[1] // groups

    @property
    def values(self) -> Tensor:
        """Float32 [out, in]."""
        levels = self.levels.float().unflatten(1, (self.scale.shape[1], -1))
        moved = levels if self.zero is None else levels - self.zero.float()[..., None]
        return (moved * self.scale[..., None]).flatten(1)


class Quantizer(ABC):
    """A map from float weights [rows, cols] to few levels. Subclasses set `name`, `Params` and
    the methods below."""

    name: ClassVar[str]
    Params: ClassVar[type[registry.Params]] = QuantizerParams
    idempotent: bool = True
    """Whether quantizing twice gives the same as once, up to float32 rounding of a row's scale."""
    adaptive: ClassVar[bool] = False
    """Whether the stored size depends on the values; then `layout` is the largest that can be."""
    frozen: ClassVar[tuple[str, ...]] = ()
    """Names in `fit` that are kept with the weight and not trained."""

    def __init__(self, params: QuantizerParams):
        self.params = params

    @classmethod
    def examples(cls) -> Sequence[registry.Params]:
        """Parameter sets that the contract tests run."""
        return [cls.Params()]

    @property
    def label(self) -> str:
        """Short name with the parameters that matter, unique within the family."""
        return self.name

    @property
    def scope(self) -> Literal["row", "group", "tensor"]:
        """What shares a scale or a table. `row`: no row's values depend on another row."""
        return "row"

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The values that come out, of one row, group or tensor (see `scope`)."""

    def fit(self, w: Tensor) -> dict[str, Tensor]:
        """What training starts from and learns beside the weight [rows, cols]: float32 tensors by
        name, often none."""
        return {}

    def fake_quantize(self, w: Tensor, learned: Learned | None = None) -> Tensor:
        """[rows, cols] weights -> quantized values, same shape and dtype, with the straight-through
        gradient asked for.

        Values are computed in float32 whatever the dtype of `w`, then cast to it. Without `learned`, what
        `fit` gives now is used. Gradients reach `learned` under every rule for the weight's own gradient.
        """
        rule = self.params.gradient
        if rule == "own":
            return self._quantize(w, learned)
        return pass_gradient(rule, w, self._quantize(w.detach(), learned), self.grid.low, self.grid.high)

    @abstractmethod
    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        """`fake_quantize` with the family's own gradient."""

    @abstractmethod
    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        """[rows, cols] weights -> the arrays of `layout`: packed `codes` (uint8, row-major), scales, tables.

        Raises ValueError when `w` holds NaN or infinity. Encode on the device that the weight was trained on:
        a row's scale may differ in its last bit between devices.
        """

    @abstractmethod
    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        """`encode`'s output -> float32 [rows, cols], equal to `fake_quantize` bit for bit.

        Raises ValueError when the arrays do not fit `shape`, as in a truncated file.
        """

    @abstractmethod
    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        """Every array that `encode` gives for a weight of this shape; all are 1-D."""

    def integer_rows(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        """Levels int8 [rows, cols] and scales float32 [rows, 1] whose product is what `decode`
        gives, bit for bit.

        With them a product with the weight is one of integers. None in families, or with parameters,
        that have no such form: levels that are not whole numbers or exceed a byte, scales that rows do not
        have for themselves.
        """
        return None

    def integer_groups(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> IntegerGroups | None:
        """What `decode` gives, bit for bit, where it is whole numbers of at most 8 bits times scales of rows
        or of groups within them; by default what `integer_rows` says."""
        rows = self.integer_rows(packed, shape)
        if rows is None:
            return None
        levels, scale = rows
        low, high = (int(end) for end in levels.aminmax())
        needed = max(-low - 1, high, 1).bit_length() + 1
        return IntegerGroups(levels, scale.contiguous(), None,
                             max(needed, ((self.grid.levels or 1) - 1).bit_length()))

    def stored_bytes(self, shape: tuple[int, int]) -> int:
        """Bytes of everything `encode` gives for a weight of this shape."""
        return sum(part.bytes for part in self.layout(shape).values())

    def bits_per_value(self, shape: tuple[int, int]) -> float:
        """Stored bits per value of a weight of this shape: packed codes with their padding,
        scales, tables."""
        return 8 * self.stored_bytes(shape) / (shape[0] * shape[1])

    def refuse_absurd(self, shape: tuple[int, int], where: str) -> None:
        """Raises `UserError` where scales and tables eat what quantizing saves: above
        `MOST_BITS` bits a value.

        Only families that store something beside the codes can be absurd: the codes alone are what
        the user asked for.
        """
        parts = self.layout(shape)
        beside = {name: 8 * part.bytes / math.prod(shape) for name, part in parts.items() if name != "codes"}
        if beside and sum(beside.values()) > MOST_BITS:
            name = max(beside, key=lambda name: beside[name])
            raise UserError(f"quantizer {self.label!r} on {where} [{shape[0]}, {shape[1]}] stores "
                            f"{self.bits_per_value(shape):.1f} bits a value, "
                            f"{beside[name]:.1f} of them for its {name}; "
                            f"legal: at most {MOST_BITS} beside the codes (coarser groups, fewer entries)")

    def facts(self, shape: tuple[int, int]) -> dict[str, Any]:
        """What a user wants to know before choosing: label, bits_per_value at this shape, levels,
        low, high, step."""
        return {"label": self.label, "bits_per_value": self.bits_per_value(shape), **self.grid._asdict()}

    def checked(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
        """`packed` itself when it holds exactly the arrays of `layout`, else ValueError."""
        for name, part in self.layout(shape).items():
            if name not in packed:
                raise ValueError(f"{self.label}, shape {shape}: expected {name}, which is missing")
            array = packed[name]
            if array.dtype != part.dtype:
                raise ValueError(f"{self.label} {name}: expected {part.dtype}, found {array.dtype}")
            check_size(array, part.count, f"{self.label} {name}, shape {shape}")
        return packed


class WholeTensor(Quantizer):
    """A quantizer whose values depend on the whole weight, with no grid that could be told beforehand."""

    @property
    def scope(self) -> Literal["row", "group", "tensor"]:
        return "tensor"

    @property
    def grid(self) -> Grid:
        return Grid(None, None, None, None)


def shape_of(w: Tensor) -> tuple[int, int]:
    """[rows, cols] of a weight."""
    rows, cols = w.shape
    return rows, cols


def check_size(array: Tensor, expected: int, what: str) -> Tensor:
    """`array` itself when it has `expected` elements, else ValueError."""
    if array.numel() != expected:
        raise ValueError(f"{what}: expected {expected} elements, found {array.numel()}")
    return array


def finite32(w: Tensor) -> Tensor:
    """Detached float32 `w`. Raises ValueError on NaN or infinity, which no code can stand for."""
    values = w.detach().float()
    if not torch.isfinite(values).all():
        raise ValueError("cannot encode a weight that holds NaN or infinity")
    return values


def row_mean(magnitude: Tensor) -> Tensor:
    """[rows, cols] non-negative -> [rows, 1] mean, also where the sum of a row overflows."""
    # Contiguous, since the order of summation, hence the last bit, follows the memory layout.
    magnitude = magnitude.contiguous()
    mean = magnitude.mean(1, keepdim=True)
    small = (magnitude / magnitude.shape[1]).sum(1, keepdim=True).clamp_(max=LARGEST)
    return torch.where(torch.isinf(mean), small, mean)
