"""One training run for every rank and bit-width: what it draws at each step, and adapters of which a prefix
is a smaller adapter.

QDyLoRA (arXiv 2402.10462) draws a rank b and computes with the first b rows of A and columns of B, scaled as
LoRA at that rank, alpha / b. One-QuantLLM (arXiv 2405.20202) keeps a frozen weight and an adapter for
each bit-width, and lets the bit-width follow a triangular wave, since widths drawn evenly neglect the ends.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.config import MIXED
from trainable.models.lora import ADAPTER
from trainable.seeds import stream

FINENESS = 2
"""Steps that the rarest bit-width has in half a period, where widths have unequal shares."""


class Member(NamedTuple):
    """One model of a supernet."""

    rank: int
    bits: int
    """Of all sites that `others` does not name."""
    others: tuple[tuple[str, int], ...] = ()
    """Bits of the sites that have others: none where all have the same, (("ffn", 4),) in a mixture."""

    def at(self, site: str | None) -> int:
        """Bits of a site; None: of what is at none of them."""
        return dict(self.others).get(site or "", self.bits)


def mixture(rank: int, bits: Mapping[str, int]) -> Member:
    """The member with these bits at the sites of `MIXED`."""
    first = bits[MIXED[0]]
    return Member(rank, first, tuple((site, bits[site]) for site in MIXED if bits[site] != first))


def members(ranks: Iterable[int], bits: Iterable[int], mixtures: bool = False) -> list[Member]:
    """All of a supernet, narrowest first. `mixtures`: those whose sites differ in bits, too."""
    widths, ranks = sorted(bits), sorted(ranks)
    if not mixtures:
        return [Member(rank, width) for width in widths for rank in ranks]
    drawn = sorted(product(widths, repeat=len(MIXED)), key=lambda each: (sum(each), each))
    return [mixture(rank, dict(zip(MIXED, each, strict=True))) for each in drawn for rank in ranks]


@dataclass(frozen=True)
class Draws:
    """Which member each step trains: a pure function of seed and step, so that workers agree and a resume
    is exact. `lean`: a width of one bit less is drawn 2^lean times as often; 0: all alike. `mixtures`: the
    share of steps, chosen at random, that draw the bits of each site by themselves. `widest`: of so many
    first steps every one draws the largest rank."""

    ranks: Sequence[int]
    bits: Sequence[int]
    seed: int
    lean: float = 0.0
    mixtures: float = 0.0
    widest: int = 0

    @cached_property
    def wave(self) -> tuple[int, ...]:
        """The bit-widths of one period, S steps: down the list and up again, as abs(2 t / S - 1) does, each
        for its share of the way."""
        widths = sorted(self.bits)
        often = [2.0 ** (self.lean * (widths[-1] - width)) for width in widths]
        ends = [end / sum(often) for end in accumulate(often)]
        even = ends[-1] - (ends[-2] if len(ends) > 1 else 0.0) > 1 / len(widths) - 1e-9
        half = len(widths) if even else math.ceil(FINENESS * sum(often) / often[-1])
        way = [abs((place + 0.5) / half - 1) for place in range(2 * half)]
        return tuple(widths[min(bisect_right(ends, at), len(widths) - 1)] for at in way)

    @property
    def round(self) -> int:
        """Steps of one fall and rise of the wave."""
        return len(self.wave)

    @cached_property
    def covered(self) -> int:
        """Steps after which every bit-width was drawn, at every site."""
        if not self.mixtures:
            return 1 + max(map(self.wave.index, self.bits))
        missing, step = set(product(MIXED, self.bits)), 0
        while missing:
            drawn = self.at(step)
            missing -= {(site, drawn.at(site)) for site in MIXED}
            step += 1
        return step

    def before(self, step: int, width: int) -> int:
        """In how many steps before this one the wave drew a width. With mixtures a site was of this width
        about as often."""
        turn, place = divmod(step, self.round)
        return turn * self.wave.count(width) + self.wave[:place].count(width)

    def at(self, step: int) -> Member:
        """The bit-width is the wave's; the rank comes from a deck of all ranks, shuffled anew for each
        bit-width whenever it is used up. In a step that mixes, each site has a width with the wave's own
        frequencies instead, by itself: the rank stays, and so does the share of each width at a site."""
        width, ranks = self.wave[step % self.round], sorted(self.ranks)
        rank = ranks[-1]
        if step >= self.widest:
            deck, card = divmod(self.before(step, width) - self.before(self.widest, width), len(ranks))
            order = torch.randperm(len(ranks), generator=stream("supernet", self.seed, width, deck))
            rank = ranks[int(order[card])]
        if not self.mixtures:
            return Member(rank, width)
        chance = stream("supernet", self.seed, "mixture", step)
        if float(torch.rand((), generator=chance)) >= self.mixtures:
            return Member(rank, width)
        places = torch.randint(self.round, (len(MIXED),), generator=chance).tolist()
        return mixture(rank, {site: self.wave[place] for site, place in zip(MIXED, places, strict=True)})


class Prefix(nn.Linear):
    """One factor of an adapter, of which the first `rank` rows (`dim` 0) or columns (`dim` 1) compute. What
    lies beyond gets a gradient of zero: only what is left of its momentum moves it."""

    def __init__(self, factor: nn.Linear, dim: int):
        super().__init__(factor.in_features, factor.out_features, bias=False, device="meta")
        self.weight, self.dim = factor.weight, dim
        self.rank = factor.weight.shape[dim]

    def forward(self, input: Tensor) -> Tensor:
        """[.., in] -> [.., out], of a row's prefix the first `rank` alone."""
        weight = self.weight
        whole = self.rank == weight.shape[self.dim]
        return F.linear(input, weight if whole else weight.narrow(self.dim, 0, self.rank))


def nest(layers: Iterable[Any]) -> None:
    """Make peft's LoRA layers adapters of every rank up to their own, in place. Their weights stay the same
    parameters under the same names."""
    for layer in layers:
        for dim, factors in enumerate((layer.lora_A, layer.lora_B)):
            factors[ADAPTER] = Prefix(factors[ADAPTER], dim)


def use_rank(layers: Iterable[Any], rank: int, scale: float) -> None:
    """Compute with the first `rank` rows and columns from now on, times `scale`."""
    for layer in layers:
        layer.scaling[ADAPTER] = scale
        layer.lora_A[ADAPTER].rank = layer.lora_B[ADAPTER].rank = rank
