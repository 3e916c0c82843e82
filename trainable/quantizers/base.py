"""What a weight quantizer is, and the straight-through gradient that all families share.

Every quantizer is a pure function of the float32 values of a 2-D weight. Training sees `fake_quantize`; an artifact
holds `encode`, and `decode` gives back the very same values, bit for bit: what was measured is what is shipped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from trainable.registry import Params

SCALE_BYTES = 4
"""Scales are stored as float32. float16 would save 16 bits a row, but decode would differ from what was trained."""

LARGEST = torch.finfo(torch.float32).max


class Grid(NamedTuple):
    """The values that a quantizer can give. None = set by the row's scale, or (step) not evenly spaced."""

    levels: int | None
    low: float | None
    high: float | None
    step: float | None


class Quantizer(ABC):
    """A map from float weights [rows, cols] to few levels. Subclasses set `name`, `Params` and the methods below."""

    name: ClassVar[str]
    Params: ClassVar[type[Params]] = Params
    idempotent: ClassVar[bool] = True
    """Whether quantizing twice gives the same as once, up to float32 rounding of a row's scale."""

    def __init__(self, params: Params):
        self.params = params

    @classmethod
    def examples(cls) -> list[Params]:
        """Parameter sets that the contract tests run."""
        return [cls.Params()]

    @property
    def label(self) -> str:
        """Short name with the parameters that matter, unique within the family."""
        return self.name

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The values that come out."""

    @abstractmethod
    def fake_quantize(self, w: Tensor) -> Tensor:
        """[rows, cols] weights -> quantized values, same shape and dtype, with the family's straight-through gradient.

        Values are computed in float32 whatever the dtype of `w`, then cast to it.
        """

    @abstractmethod
    def encode(self, w: Tensor) -> dict[str, Tensor]:
        """[rows, cols] weights -> `codes` (uint8, 1-D, row-major, packed) and, in some families, `scale` (float32).

        Raises ValueError when `w` holds NaN or infinity. Encode on the device that the weight was trained on: a row's
        scale may differ in its last bit between devices.
        """

    @abstractmethod
    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        """`encode`'s output -> float32 [rows, cols], equal to `fake_quantize` bit for bit.

        Raises ValueError when the arrays do not fit `shape`, as in a truncated file.
        """

    @abstractmethod
    def code_bytes(self, values: int) -> int:
        """Bytes of `codes` for that many values."""

    def scale_count(self, shape: tuple[int, int]) -> int:
        """Number of float32 scales stored beside the codes."""
        return 0

    def stored_bytes(self, shape: tuple[int, int]) -> int:
        """Bytes of everything `encode` gives for a weight of this shape."""
        return self.code_bytes(shape[0] * shape[1]) + SCALE_BYTES * self.scale_count(shape)

    def bits_per_value(self, shape: tuple[int, int]) -> float:
        """Stored bits per value of a weight of this shape: packed codes with their padding, and scales."""
        return 8 * self.stored_bytes(shape) / (shape[0] * shape[1])

    def facts(self, shape: tuple[int, int]) -> dict[str, Any]:
        """What a user wants to know before choosing: label, bits_per_value at this shape, levels, low, high, step."""
        return {"label": self.label, "bits_per_value": self.bits_per_value(shape), **self.grid._asdict()}

    def _codes(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        """`packed["codes"]`, checked to hold exactly the bytes of `shape`."""
        return check_size(packed["codes"], self.code_bytes(shape[0] * shape[1]), f"{self.label} codes, shape {shape}")

    def _scale(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        """`packed["scale"]` as a column, checked to hold exactly the scales of `shape`."""
        return check_size(packed["scale"], self.scale_count(shape), f"{self.label} scales, shape {shape}")[:, None]


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
    """[rows, cols] non-negative -> [rows, 1] mean, kept finite where the sum of a row overflows."""
    # Contiguous, since the order of summation, hence the last bit, follows the memory layout.
    return magnitude.contiguous().mean(1, keepdim=True).clamp_(max=LARGEST)


class _StraightThrough(torch.autograd.Function):
    """Gives the quantized values and hands the gradient to the weight, as if nothing had happened in between."""

    @staticmethod
    def forward(ctx, w: Tensor, quantized: Tensor, low: float | None, high: float | None) -> Tensor:
        ctx.low, ctx.high = low, high
        if low is not None:
            ctx.save_for_backward(w)
        return quantized

    @staticmethod
    def backward(ctx, grad: Tensor):
        if ctx.low is None:
            return grad, None, None, None
        (w,) = ctx.saved_tensors
        return clip_gradient(grad, w, ctx.low, ctx.high), None, None, None


def clip_gradient(grad: Tensor, w: Tensor, low: float, high: float) -> Tensor:
    """`grad` where low <= w <= high, zero elsewhere; low < 0 < high are float32 values."""
    # One fused pass. It leaves the bounds themselves out, hence the next float32 beyond each.
    below, above = low - _spacing(low), high + _spacing(high)
    return torch.ops.aten.hardtanh_backward(grad.float(), w.float(), below, above).to(grad.dtype)


def _spacing(value: float) -> float:
    """Distance from a float32 value to the next one away from zero."""
    return 2.0 ** (math.frexp(value)[1] - 24)


def straight_through(w: Tensor, quantized: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """`quantized`, exactly; the gradient goes to `w` unchanged, or only where low <= w <= high (arXiv 1308.3432).

    The usual `w + (quantized - w).detach()` is off by float rounding; this is not.
    """
    return _StraightThrough.apply(w, quantized.to(w.dtype), low, high)
