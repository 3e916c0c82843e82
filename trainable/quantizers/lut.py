"""Lookup tables: each block of a weight has a few values of its own, found by k-means and trained
with the weights."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from trainable.quantizers.base import Grid, Learned, Part, Quantizer, QuantizerParams, finite32, shape_of
from trainable.quantizers.blocks import Granularity, count, join, split
from trainable.quantizers.gradients import straight_through
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits

ROUNDS = 12
LARGEST_BF16 = 3.3e38


class LookupParams(QuantizerParams):
    bits: int = Field(4, ge=1, le=6, description="stored bits of a value: 2^bits entries in a table")
    granularity: Granularity = Field("tensor", description="what shares a table: the tensor, each row, "
                                                           "groups of values")
    group: int = Field(1024, ge=16, le=1 << 20,
                       description="values that share a table, with granularity group")


def as_stored(table: Tensor) -> Tensor:
    """Learned entries as they are read from disk, bfloat16; differentiable."""
    limited = table.float().clamp(-LARGEST_BF16, LARGEST_BF16)
    return straight_through(limited, limited.detach().bfloat16().float().add_(0.0))


class LookupTable(Quantizer):
    """Nearest of 2^bits values that its tensor, row or group has for itself; the values are learned
    with the weights.

    Tables start as the k-means of the values in them (from quantiles), are stored as bfloat16, and get
    the gradient of the weights that point at each entry. The weight's own gradient passes unchanged. As in
    FLUTE (arXiv 2407.10960).
    """

    name = "lut"
    Params = LookupParams
    params: LookupParams

    @classmethod
    def examples(cls) -> list[LookupParams]:
        make = LookupParams
        return [make(), make(bits=2), make(bits=3, granularity="row"),
                make(bits=2, granularity="group", group=64), make(bits=1)]

    @property
    def label(self) -> str:
        params = self.params
        return (f"lut{params.bits}"
                + {"tensor": "", "row": "_row", "group": f"_g{params.group}"}[params.granularity])

    @property
    def scope(self) -> Granularity:
        return self.params.granularity

    @property
    def grid(self) -> Grid:
        return Grid(1 << self.params.bits, None, None, None)

    def _split(self, w: Tensor) -> Tensor:
        return split(w, self.params.granularity, self.params.group)

    @torch.no_grad()
    def fit(self, w: Tensor) -> dict[str, Tensor]:
        blocks = self._split(finite32(w))
        unit = blocks.abs().amax(1, keepdim=True).clamp(min=2.0**-100)  # sums of huge values must stay finite
        values, entries = blocks / unit, 1 << self.params.bits
        at = (torch.arange(entries, device=w.device) + 0.5) / entries * (values.shape[1] - 1)
        table = values.sort(1).values[:, at.round().long()].contiguous()
        for _ in range(ROUNDS):
            nearest = self._nearest(table, values)
            total = torch.zeros_like(table).scatter_add_(1, nearest, values)
            found = torch.zeros_like(table).scatter_add_(1, nearest, torch.ones_like(values))
            table = torch.where(found > 0, total / found.clamp(min=1), table).sort(1).values
        return {"table": table * unit}

    def _nearest(self, table: Tensor, blocks: Tensor) -> Tensor:
        """[n, entries] ascending, [n, size] -> the entry of each value, int64."""
        middle = table[:, 1:] / 2 + table[:, :-1] / 2
        return torch.searchsorted(middle.contiguous(), blocks.contiguous())

    def _look_up(self, w: Tensor, learned: Learned | None) -> tuple[Tensor, Tensor]:
        """The tables as stored, ascending and differentiable, and the codes [n, size]."""
        table = as_stored((learned or self.fit(w))["table"]).sort(1).values
        return table, self._nearest(table.detach(), self._split(w.detach().float()))

    def _quantize(self, w: Tensor, learned: Learned | None) -> Tensor:
        table, codes = self._look_up(w, learned)
        return straight_through(w, join(table.gather(1, codes), shape_of(w)))

    @torch.no_grad()
    def encode(self, w: Tensor, learned: Learned | None = None) -> dict[str, Tensor]:
        table, codes = self._look_up(finite32(w), learned)
        return {"codes": pack_bits(join(codes, shape_of(w)).flatten(), self.params.bits),
                "table": table.flatten().to(torch.bfloat16)}

    def decode(self, packed: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
        packed = self.checked(packed, shape)
        codes = (self._split(unpack_bits(packed["codes"], self.params.bits, math.prod(shape)).view(shape))
                 .long())
        return join(packed["table"].float().view(len(codes), -1).gather(1, codes), shape)

    def layout(self, shape: tuple[int, int]) -> dict[str, Part]:
        tables = count(shape, self.params.granularity, self.params.group)
        return {"codes": Part(torch.uint8, bits_bytes(math.prod(shape), self.params.bits)),
                "table": Part(torch.bfloat16, tables << self.params.bits)}
