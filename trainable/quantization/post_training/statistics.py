"""What calibration keeps of the inputs of a Linear: sums that can be added batch by batch and merged across
workers.

A pass over calibration states calls `Calibration.add` from a hook on each Linear of one block, quantizes the
block from what `merged` or `per_interval` give, and drops it before the next block, so that one block's
statistics are held at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from spaces.errors import UserError
from trainable.quantization.post_training.intervals import Intervals
from trainable.quantization.post_training.maps import InputMap

SECOND_MOMENT = "second moment"
ABSOLUTE_MEAN = "absolute mean"
ABSOLUTE_MAXIMUM = "absolute maximum"
HISTOGRAM = "histogram"
NEEDS = (SECOND_MOMENT, ABSOLUTE_MEAN, ABSOLUTE_MAXIMUM, HISTOGRAM)

SHIFT = 18
"""Bits of a float32 that a histogram drops: 8 of exponent and 5 of mantissa stay, so a bin is at most 1/32
wide."""
BINS = 1 << (31 - SHIFT)


class Statistics:
    """Sums over the tokens that a Linear was fed, of the kinds in `needs`, in float64.

    Attributes: `count` tokens, `weight` the sum of their weights. Token weights act on the second moment
    alone.
    """

    def __init__(self, width: int, needs: Collection[str], name: str = "layer",
                 device: torch.device | str = "cpu"):
        unknown = set(needs) - set(NEEDS)
        if unknown:
            raise ValueError(f"unknown statistics {sorted(unknown)}; legal: {', '.join(NEEDS)}")
        self.width, self.needs, self.name = width, frozenset(needs), name
        self.count, self.weight = 0, 0.0
        sizes: dict[str, tuple[int, ...]] = {SECOND_MOMENT: (width, width), ABSOLUTE_MEAN: (width,),
                                             ABSOLUTE_MAXIMUM: (width,), HISTOGRAM: (2, BINS)}
        self._sums = {need: torch.zeros(size, dtype=torch.long if need == HISTOGRAM else torch.double,
                                        device=device)
                      for need, size in sizes.items() if need in self.needs}

    @torch.no_grad()
    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Count tokens x [..., in], each with its weight [...] in the second moment (1 without).

        Raises `UserError` on NaN or infinity, ValueError where shapes do not fit or a weight is negative.
        """
        if x.shape[-1] != self.width:
            raise ValueError(f"statistics of {self.name}: inputs {x.shape[-1]} wide, expected {self.width}")
        if weights is not None and weights.shape != x.shape[:-1]:
            raise ValueError(f"statistics of {self.name}: {tuple(weights.shape)} token weights "
                             f"for {tuple(x.shape[:-1])} tokens")
        tokens = x.detach().reshape(-1, self.width).float()
        self._refuse_nan(tokens, "inputs")
        if weights is not None:
            weights = weights.detach().reshape(-1).to(tokens.device, torch.double)
            self._refuse_nan(weights, "token weights")
            if (weights < 0).any():
                raise ValueError(f"statistics of {self.name}: a token weight is negative")
        self.count += len(tokens)
        self.weight += len(tokens) if weights is None else float(weights.sum())
        for need, total in self._sums.items():
            if need == SECOND_MOMENT:
                wide = tokens.double()
                total += (wide if weights is None else wide * weights[:, None]).T @ wide
            elif need == ABSOLUTE_MEAN:
                total += tokens.abs().sum(0, dtype=torch.double)
            elif need == ABSOLUTE_MAXIMUM and len(tokens):
                torch.maximum(total, tokens.abs().amax(0).double(), out=total)
            elif need == HISTOGRAM:
                bits = tokens.flatten().view(torch.int32)
                bins = ((bits & 0x7FFFFFFF) >> SHIFT) + BINS * (bits < 0)
                total += torch.bincount(bins, minlength=2 * BINS).view(2, BINS)

    def merge(self, other: Statistics) -> None:
        """Add what another worker or interval has counted."""
        if (other.width, other.needs) != (self.width, self.needs):
            raise ValueError(f"statistics of {self.name} and {other.name} differ in width or in kind")
        self.count, self.weight = self.count + other.count, self.weight + other.weight
        for need, total in self._sums.items():
            theirs = other._sums[need].to(total.device)
            total.copy_(torch.maximum(total, theirs) if need == ABSOLUTE_MAXIMUM else total + theirs)

    @property
    def second_moment(self) -> Tensor:
        """sum w x x^T / sum w, float64 [in, in]: token weights of any scale give the same."""
        return self._sum(SECOND_MOMENT) / (self.weight or 1.0)

    @property
    def absolute_mean(self) -> Tensor:
        """Mean |x| of each channel, float64 [in]."""
        return self._sum(ABSOLUTE_MEAN) / max(1, self.count)

    @property
    def absolute_maximum(self) -> Tensor:
        """Largest |x| of each channel, float64 [in]."""
        return self._sum(ABSOLUTE_MAXIMUM)

    @property
    def histogram(self) -> tuple[Tensor, Tensor]:
        """Lower edges of the bins of |x|, float32 [BINS], and counts int64 [2, BINS]: of x >= 0, of x < 0."""
        counts = self._sum(HISTOGRAM)
        edges = torch.arange(BINS, dtype=torch.int32, device=counts.device) << SHIFT
        return edges.view(torch.float32), counts

    def after(self, maps: Sequence[InputMap]) -> Statistics:
        """Statistics of the inputs behind `maps`. Those that a map makes unknowable are left out."""
        if not maps:
            return self
        kept = self.needs - {HISTOGRAM}
        if not all(each.keeps_channels for each in maps):
            kept &= {SECOND_MOMENT}
        behind = Statistics(self.width, kept, self.name)
        behind.count, behind.weight = self.count, self.weight
        for need in behind._sums:
            value = self._sums[need]
            for each in maps:
                value = each.moment(value) if need == SECOND_MOMENT else each.inputs(value)
            behind._sums[need] = value
        return behind

    def _sum(self, need: str) -> Tensor:
        if need not in self._sums:
            raise UserError(f"statistics of {self.name} lack the {need}: "
                            f"it was not collected, or lies before a rotation")
        if not self.count:
            raise UserError(f"statistics of {self.name} are empty: no calibration token reached it")
        return self._sums[need]

    def _refuse_nan(self, values: Tensor, what: str) -> None:
        if not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).sum())
            raise UserError(f"statistics of {self.name}: {bad} of {values.numel()} values "
                            f"of the {what} are NaN or infinite")


class Calibration:
    """Statistics of many Linears by name, each split by the interval that a row's noise level falls into."""

    def __init__(self, needs: Collection[str], intervals: Intervals | None = None):
        self.needs, self.intervals = frozenset(needs), intervals or Intervals()
        self._found: dict[str, list[Statistics]] = {}

    def add(self, name: str, x: Tensor, levels: Tensor | None = None, weights: Tensor | None = None,
            keep: Tensor | None = None) -> None:
        """Count inputs x [B, ..., in] of Linear `name`; levels [B] in [0, 1], weights and keep (bool) [B,
        ...].

        `keep` leaves tokens out (padding). Without `levels` there may be one interval only.
        """
        if levels is None and len(self.intervals) > 1:
            raise ValueError(f"statistics of {name}: {len(self.intervals)} intervals need "
                             f"the noise level of each row")
        if name not in self._found:
            self._found[name] = [Statistics(x.shape[-1], self.needs, name, x.device) for _ in self.intervals]
        rows = torch.zeros(len(x), dtype=torch.long) if levels is None else self.intervals.index(levels)
        for number, statistics in enumerate(self._found[name]):
            part = (rows == number).to(x.device)
            chosen = part.view(-1, *[1] * (x.ndim - 2)).expand(x.shape[:-1])
            chosen = chosen if keep is None else chosen & keep.to(x.device)
            if chosen.all():
                statistics.add(x, weights)
            elif chosen.any():
                statistics.add(x[chosen], None if weights is None else weights.to(x.device)[chosen])

    def per_interval(self, name: str) -> list[Statistics]:
        """One `Statistics` for each interval of the noise level."""
        if name not in self._found:
            raise UserError(f"statistics of {name} are empty: no calibration token reached it")
        return self._found[name]

    def merged(self, name: str) -> Statistics:
        """Over all intervals."""
        parts = self.per_interval(name)
        if len(parts) == 1:
            return parts[0]
        total = Statistics(parts[0].width, self.needs, name, next(iter(parts[0]._sums.values())).device
                           if parts[0]._sums else "cpu")
        for part in parts:
            total.merge(part)
        return total

    def drop(self, name: str) -> None:
        """Forget a Linear that has been quantized."""
        self._found.pop(name, None)


def output_error(weight: Tensor, quantized: Tensor, second_moment: Tensor) -> Tensor:
    """Expected squared error of each output, [out] float64: d_i H d_i^T with d = weight - quantized, both
    [out, in]."""
    difference = weight.double() - quantized.double()
    return ((difference @ second_moment.double()) * difference).sum(1)
