"""Ternary weights by two rules that differ: TWN (arXiv 1605.04711; QE-CDLM's) and absmean (BitNet
b1.58, 2402.17764).

Both take their means per row. BitNet takes one mean per matrix; rows of an embedding table differ
too much for that.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from trainable.quantizers.base import (
    LARGEST,
    Grid,
    Learned,
    Part,
    Quantizer,
    finite32,
    row_mean,
    straight_through,
)
from trainable.quantizers.packing import pack_trits, trits_bytes, unpack_trits


class Ternary(Quantizer):
    """Rows of {-alpha, 0, +alpha}, five values to a byte (1.6 bits) and 32 bits per row. Gradient
    passes unchanged."""

    @abstractmethod
    def threshold(self, mean: Tensor) -> Tensor:
        """[rows, 1] mean |w| -> the magnitude above which a weight is kept."""

    @abstractmethod
    def scale(self, mean: Tensor, magnitude: Tensor, kept: Tensor) -> Tensor:
        """[rows, 1] alpha from mean |w|, |w| (which may be overwritten) and the 0/1 mask of kept weights."""

    @property
    def grid(self) -> Grid:
        return Grid(3, None, None, None)

    def _split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 [rows, cols] -> trits in {-1, 0, +1} (float32, no -0) and alpha [rows, 1]."""
        magnitude = w.abs().contiguous()
        mean = row_mean(magnitude)
        # The mask is written as float32: a bool one costs several times more on CPUs, here and in
        # the products below.
        kept = torch.gt(magnitude, self.threshold(mean), out=torch.empty_like(magnitude))
        alpha = self.scale(mean, magnitude, kept)
        return kept.copysign_(w).add_(0.0), alpha

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        trits, alpha = self._split(w.detach().float())
        return straight_through(w, trits.mul_(alpha))

    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        trits, alpha = self._split(finite32(w))
        return {"codes": pack_trits(trits.flatten() + 1), "scale": alpha.flatten()}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        trits = unpack_trits(self.checked(packed, shape)["codes"], shape[0] * shape[1])
        return (trits - 1).float().view(shape) * packed["scale"][:, None]

    def integer_rows(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        trits = unpack_trits(self.checked(packed, shape)["codes"], shape[0] * shape[1])
        return (trits - 1).to(torch.int8).view(shape), packed["scale"][:, None]

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        return {"codes": Part(torch.uint8, trits_bytes(shape[0] * shape[1])),
                "scale": Part(torch.float32, shape[0])}


class TernaryTWN(Ternary):
    """Keeps weights with |w| > 0.7 mean |w| of their row, as plus or minus the mean |w| of the kept ones."""

    name = "ternary_twn"

    def threshold(self, mean: Tensor) -> Tensor:
        return 0.7 * mean

    def scale(self, mean: Tensor, magnitude: Tensor, kept: Tensor) -> Tensor:
        # An all-zero row keeps nothing: its alpha is 0 / 1.
        return ((magnitude.mul_(kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp_(min=1))
                .clamp_(max=LARGEST))


class TernaryAbsmean(Ternary):
    """gamma clip(round(w / gamma), -1, 1), gamma = mean |w| of the row: keeps |w| > gamma / 2,
    as +gamma or -gamma."""

    name = "ternary_absmean"
    idempotent = False  # a second pass sees a smaller mean, hence another gamma

    def threshold(self, mean: Tensor) -> Tensor:
        return 0.5 * mean

    def scale(self, mean: Tensor, magnitude: Tensor, kept: Tensor) -> Tensor:
        return mean
