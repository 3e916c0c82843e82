"""A word table that stays codes: rows are looked up from them, and the rounding head multiplies them.

For formats with integer levels and a scale per row or table (`Quantizer.integer_rows`): a byte a value
instead of four. A lookup equals the decoded table bit for bit. The head rounds the latent to two int8 numbers
a value, coarse and rest, so that logits are within 2^-15 of the largest |latent| times the row's sum of
|values|; see docs/quantizers.md for what this does to the words that are chosen, and for where it is faster.
Where a CPU has no such product that is quick and exact (x86 without VNNI) runs of rows are floats instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spaces.config import PluginRef
from trainable.compat import int8_matmul, int8_matmul_serves
from trainable.models.parts import Table, TableError
from trainable.quantizers.blocks import SMALLEST
from trainable.registry import QUANTIZERS

ROWS = 128
"""Latents that are multiplied at once."""
DECODED = 4096
"""Words whose rows are floats at a time."""


PACKED_FROM = 512
"""Values of a row from which on products with codes are faster than with floats:
benchmarks/quantizers_latency.py."""

def packed_table(choice: Table, entry: dict, parts: dict[str, Tensor], loss: str,
                 device: torch.device) -> PackedTable | None:
    """The table as codes where it is asked for, or worth it; None = decode it.

    Args: `entry`, its line in an artifact's packing ({} = not quantized), and its stored arrays.
    Raises `TableError`.
    """
    if choice == "decoded" or "quantizer" not in entry:
        if choice == "packed":
            raise TableError("the word table is not quantized, so it has no codes to compute with; "
                             "legal: decoded")
        return None
    quantizer, shape = QUANTIZERS.build(PluginRef(**entry["quantizer"])), tuple(entry["shape"])
    if choice == "auto" and (loss != "mse" or shape[1] < PACKED_FROM or not int8_matmul_serves()):
        return None
    found = quantizer.integer_rows(parts, shape) if device.type == "cpu" else None
    if found is None and choice == "packed":
        raise TableError(f"a word table stored by {quantizer.label} on {device.type} cannot stay packed, "
                         "which takes whole "
                         "levels of at most 8 bits, a scale per row or table, and a CPU; legal: decoded")
    return None if found is None else PackedTable(quantizer.label, *found)


class PackedTable(nn.Module):
    """Stands where the model has its `nn.Embedding`. `dot` and `rows` know the table as it is stored,
    times `factor`."""

    traceable = False

    levels: Tensor
    scale: Tensor

    def __init__(self, label: str, levels: Tensor, scale: Tensor):
        super().__init__()
        self.label, self.num_embeddings, self.embedding_dim = label, *levels.shape
        self.register_buffer("levels", levels.contiguous())
        self.register_buffer("scale", scale.contiguous())

    @property
    def weight(self) -> Tensor:
        """[V, d] float32, decoded anew."""
        return self.levels * self.scale

    def rows(self, ids: Tensor) -> Tensor:
        """Ids of any shape -> float32 [..., d], equal to `weight[ids]` bit for bit."""
        return nn.functional.embedding(ids, self.levels) * nn.functional.embedding(ids, self.scale)

    def parts(self) -> Iterator[tuple[int, Tensor]]:
        """Runs of words: (first word, float rows), so that a table is gone through without
        being decoded whole."""
        for start in range(0, self.num_embeddings, DECODED):
            yield start, self.levels[start:start + DECODED] * self.scale[start:start + DECODED]

    def forward(self, ids: Tensor) -> Tensor:
        return self.rows(ids)

    def dot(self, latent: Tensor, factor: Tensor) -> Tensor:
        """[..., d] latents -> [..., V] products with all rows, each times its `factor` [V];
        differentiable in the latent."""
        flat = latent.reshape(-1, self.embedding_dim).float()
        return _Dot.apply(flat, self, (self.scale[:, 0] * factor)).view(*latent.shape[:-1],
                                                                        self.num_embeddings)

    def expected(self, probabilities: Tensor, factor: Tensor) -> Tensor:
        """[..., V] -> [..., d] mean row under the probabilities, each row times its `factor`."""
        total = probabilities.new_zeros(())
        for start, rows in self.parts():
            total = (total + probabilities[..., start:start + len(rows)]
                     @ (rows * factor[start:start + len(rows), None]))
        return total

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.label}"


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: PackedTable, scale: Tensor) -> Tensor:
        ctx.table, ctx.scale = table, scale
        out = rows.new_empty(len(rows), table.num_embeddings)
        for start in range(0, len(rows), ROWS):
            out[start:start + ROWS] = _product(rows[start:start + ROWS], table.levels).mul_(scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        scaled, total = grad * ctx.scale, grad.new_zeros(())
        for start in range(0, ctx.table.num_embeddings, DECODED):
            levels = ctx.table.levels[start:start + DECODED]
            total = total + scaled[:, start:start + DECODED] @ levels.float()
        return total, None, None


def _product(x: Tensor, levels: Tensor) -> Tensor:
    """[n, d] floats times int8 [V, d] transposed, in float32. x = coarse * c + rest * r, both int8."""
    if not int8_matmul_serves():
        return torch.cat([x @ part.float().t() for part in levels.split(DECODED)], 1)
    coarse = (x.abs().amax(1, keepdim=True) / 127).clamp_(min=SMALLEST)
    first = (x / coarse).round_()
    rest = coarse / 254
    second = (x - first * coarse).div_(rest).round_().clamp_(-127, 127)
    sums = int8_matmul(torch.cat([first, second]).to(torch.int8), levels.t()).float()
    return sums[:len(x)].mul_(coarse).add_(sums[len(x):].mul_(rest))
