"""Finite scalar quantization of rows (FSQ, arXiv 2309.15505): project, bound, round, project back."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from trainable.quantizers.base import Learned, Part, QuantizerParams, WholeTensor, finite32
from trainable.quantizers.gradients import straight_through
from trainable.quantizers.lut import as_stored
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits

MOST = 1e36
"""Largest entry of the way back: a sum of 256 stays finite."""


class FSQParams(QuantizerParams):
    dims: int = Field(8, ge=1, le=256, description="coordinates that a row is projected to")
    levels: int = Field(8, ge=2, le=64, description="values of a coordinate; powers of two waste no bits")


def bound(z: Tensor, levels: int) -> Tensor:
    """Squeezes coordinates so that rounding gives `levels` values (the paper's equation 1 and
    its code's shift)."""
    half = (levels - 1) * (1 + 1e-3) / 2
    offset = 0.5 if levels % 2 == 0 else 0.0
    return (z + math.atanh(offset / half)).tanh() * half - offset


class FSQ(WholeTensor):
    """Rows projected to a few coordinates, each squeezed by tanh and rounded to a few values,
    and projected back.

    Both projections are learned; they start as the principal directions of the rows. Only the codes and the
    way back (bfloat16) are stored. The weight's gradient is the chain rule's through projections and tanh,
    straight through the rounding.
    """

    name = "fsq"
    Params = FSQParams
    params: FSQParams
    idempotent = False  # tanh
    frozen = ("unit",)

    @classmethod
    def examples(cls) -> list[FSQParams]:
        return [FSQParams(), FSQParams(dims=6, levels=5), FSQParams(dims=12, levels=16)]

    @property
    def label(self) -> str:
        return f"fsq{self.params.dims}x{self.params.levels}"

    @property
    def code_bits(self) -> int:
        """Of one coordinate."""
        return (self.params.levels - 1).bit_length()

    @torch.no_grad()
    def fit(self, w: Tensor) -> dict[str, Tensor]:
        rows, dims = finite32(w), self.params.dims
        unit = rows.abs().amax().clamp(min=2.0**-100)
        _, sizes, directions = torch.linalg.svd((rows / unit).cpu().double(), full_matrices=False)
        rank, largest = min(dims, len(sizes)), float(sizes[0]) or 1.0
        down = torch.zeros(rows.shape[1], dims, dtype=torch.float64)
        up = torch.zeros(dims, rows.shape[1], dtype=torch.float64)
        # Coordinates of standard deviation 0.6: tanh is still nearly straight there, and most
        # levels are in use.
        spread = sizes[:rank].clamp(min=1e-3 * largest) / math.sqrt(len(rows)) / 0.6
        down[:, :rank], up[:rank] = directions[:rank].T / spread, directions[:rank] * spread[:, None]
        learned = {"down": down.float().to(w.device), "unit": unit[None]}
        # The way back is scaled by least squares to what bounding and rounding really give.
        up = up.float().to(w.device)
        coarse = self._coordinates(rows, learned) @ up
        scale = (coarse * (rows / unit)).sum() / coarse.square().sum().clamp(min=1e-12)
        return {**learned, "up": up * scale.clamp(0.1, 10) * unit}

    def _coordinates(self, rows: Tensor, learned: Learned) -> Tensor:
        """[rows, cols] -> [rows, dims] in [-1, 1], rounded; differentiable in both."""
        projected = (rows / learned["unit"]).clamp(-1e4, 1e4) @ learned["down"].float()
        squeezed = bound(projected, self.params.levels)
        return straight_through(squeezed, squeezed.detach().round().add_(0.0)) / (self.params.levels // 2)

    def _way_back(self, learned: Learned) -> Tensor:
        return as_stored(learned["up"].clamp(-MOST, MOST))

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        learned = learned or self.fit(w)
        return self._back(self._coordinates(w.float(), learned), self._way_back(learned)).to(w.dtype)

    def _back(self, coordinates: Tensor, up: Tensor) -> Tensor:
        return coordinates @ up + 0.0

    @torch.no_grad()
    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        learned = learned or self.fit(w)
        half = self.params.levels // 2
        codes = (self._coordinates(finite32(w), learned) * half).round().int() + half
        return {"codes": pack_bits(codes.flatten(), self.code_bits),
                "up": self._way_back(learned).flatten().to(torch.bfloat16)}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        packed, half = self.checked(packed, shape), self.params.levels // 2
        codes = unpack_bits(packed["codes"], self.code_bits, shape[0] * self.params.dims)
        coordinates = (codes - half).float().view(shape[0], -1) / half
        return self._back(coordinates, packed["up"].float().view(-1, shape[1]))

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        return {"codes": Part(torch.uint8, bits_bytes(shape[0] * self.params.dims, self.code_bits)),
                "up": Part(torch.bfloat16, self.params.dims * shape[1])}
