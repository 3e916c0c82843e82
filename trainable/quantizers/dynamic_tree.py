"""The 8-bit numbers that QLoRA stores scales in: dynamic tree quantization (arXiv 2110.02861, section 2.2;
with a sign, as bitsandbytes has it).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

DECADES = 7
"""Powers of ten, 1e-7 .. 1: the i-th from below has 2^i even steps on each side of zero."""


@cache
def _levels() -> tuple[float, ...]:
    found = [0.0, 1.0]
    for place in range(DECADES):
        edges = torch.linspace(0.1, 1.0, 2**place + 1, dtype=torch.float32)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (place - DECADES + 1)
        found += [*middles.tolist(), *(-middles).tolist()]
    return tuple(sorted(found))


def levels(device: torch.device | str = "cpu") -> Tensor:
    """The 256 levels in [-1, 1], increasing, float32."""
    return torch.tensor(_levels(), device=device)


def nearest(values: Tensor) -> Tensor:
    """Codes (uint8) of the levels next to values in [-1, 1]."""
    known = levels(values.device)
    return torch.bucketize(values, (known[1:] + known[:-1]) / 2).to(torch.uint8)
