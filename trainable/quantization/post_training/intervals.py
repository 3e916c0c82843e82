"""Intervals of the noise level: what is fitted once per interval instead of once for all of them.

The noise level is a number in [0, 1] that every process has: the masked share, or the time t / T of Gaussian
diffusion. A set of scales for each of K intervals follows arXiv 2401.04339.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spaces.errors import UserError


class Intervals:
    """K intervals of [0, 1], cut at K - 1 increasing boundaries; a level at a boundary belongs to the upper
    one."""

    def __init__(self, boundaries: tuple[float, ...] = ()):
        edges = (0.0, *boundaries, 1.0)
        if any(not low < high for low, high in zip(edges, edges[1:], strict=False)):
            raise UserError(f"boundaries {list(boundaries)} of noise levels: "
                            f"legal are increasing numbers between 0 and 1")
        self.boundaries = tuple(boundaries)

    @classmethod
    def equal(cls, count: int) -> Intervals:
        """`count` intervals of the same length."""
        return cls(tuple(number / count for number in range(1, count)))

    @classmethod
    def quantiles(cls, levels: Tensor, count: int) -> Intervals:
        """`count` intervals that hold about the same number of the given levels; fewer where levels
        repeat."""
        cuts = torch.quantile(levels.double(), torch.arange(1, count, dtype=torch.double) / count).tolist()
        return cls(tuple(sorted({cut for cut in cuts if 0 < cut < 1})))

    def __len__(self) -> int:
        return len(self.boundaries) + 1

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def index(self, levels: Tensor) -> Tensor:
        """Noise levels of any shape -> number of the interval of each, int64. Raises ValueError outside [0,
        1]."""
        if levels.numel() and not (levels.min() >= 0 and levels.max() <= 1):
            raise ValueError(f"noise levels from {float(levels.min())} to {float(levels.max())}: "
                             f"expected [0, 1]")
        edges = torch.tensor(self.boundaries, dtype=torch.double, device=levels.device)
        return torch.bucketize(levels.double(), edges, right=True)
