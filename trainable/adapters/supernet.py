"""One training run for every rank and bit-width: what it draws at each step, and adapters of which a prefix
is a smaller adapter.

QDyLoRA (arXiv 2402.10462) draws a rank b and computes with the first b rows of A and columns of B, scaled as
LoRA at that rank, alpha / b. One-QuantLLM (arXiv 2405.20202) keeps a frozen weight and an adapter for
each bit-width, and lets the bit-width follow a triangular wave, since widths drawn evenly neglect the ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trainable.models.lora import ADAPTER
from trainable.seeds import stream


class Member(NamedTuple):
    """One model of a supernet."""

    rank: int
    bits: int


def members(ranks: Iterable[int], bits: Iterable[int]) -> list[Member]:
    """All of a supernet, narrowest first."""
    return [Member(rank, width) for width in sorted(bits) for rank in sorted(ranks)]


@dataclass(frozen=True)
class Draws:
    """Which member each step trains: a pure function of seed and step, so that workers agree and a resume
    is exact."""

    ranks: Sequence[int]
    bits: Sequence[int]
    seed: int

    @property
    def round(self) -> int:
        """Steps of one fall and rise of the wave."""
        return 2 * len(self.bits)

    @property
    def covered(self) -> int:
        """Steps after which every member was drawn."""
        return self.round * -(-len(self.ranks) // 2)

    def at(self, step: int) -> Member:
        """The bit-width goes down the list and up again, as abs(2 t / S - 1) does in a period of S = 2
        widths' number of steps, so that each has an equal share of every period; the rank comes from a deck
        of all ranks, shuffled anew for each bit-width whenever it is used up."""
        turn, place = divmod(step, self.round)
        index = int(abs(2 * (place + 0.5) / self.round - 1) * len(self.bits))
        deck, card = divmod(2 * turn + (place >= len(self.bits)), len(self.ranks))
        width = sorted(self.bits)[index]
        order = torch.randperm(len(self.ranks), generator=stream("supernet", self.seed, width, deck))
        return Member(sorted(self.ranks)[int(order[card])], width)


class Prefix(nn.Module):
    """Parametrization of one factor of an adapter, in pieces between the ranks: those beyond `rank` take no
    part, so they get no gradient and an optimizer leaves them as they are. At the largest rank the
    weight is the plain factor."""

    def __init__(self, ranks: Sequence[int], dim: int):
        super().__init__()
        self.cuts, self.dim = sorted(ranks), dim
        self.rank = self.cuts[-1]

    def forward(self, *pieces: Tensor) -> Tensor:
        """The pieces up to `rank`, joined."""
        used = pieces[:self.cuts.index(self.rank) + 1]
        return used[0] if len(used) == 1 else torch.cat(used, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """[.., r, ..] factor at the largest rank -> its pieces."""
        sizes = [high - low for low, high in zip([0, *self.cuts], self.cuts, strict=False)]
        return tuple(piece.clone() for piece in weight.split(sizes, self.dim))


def nest(layers: Iterable[Any], ranks: Sequence[int]) -> None:
    """Make peft's LoRA layers, at the largest of the ranks, adapters of all of them, in place."""
    for layer in layers:
        for factor, dim in ((layer.lora_A[ADAPTER], 0), (layer.lora_B[ADAPTER], 1)):
            # unsafe skips a trial run; that shape and values are kept, the tests show
            parametrize.register_parametrization(factor, "weight", Prefix(ranks, dim), unsafe=True)


def use_rank(layers: Iterable[Any], rank: int, scale: float) -> None:
    """Compute with the first `rank` rows and columns from now on, times `scale`."""
    for layer in layers:
        layer.scaling[ADAPTER] = scale
        for factor in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
            factor.parametrizations["weight"][0].rank = rank
