"""The 8-bit numbers that QLoRA stores scales in and 8-bit optimizers their moments: dynamic tree quantization
(arXiv 2110.02861, section 2.2; with a sign and without, as bitsandbytes has it).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

DECADES = 7
"""Powers of ten, 1e-7 .. 1: the i-th from below has 2^i even steps on each side of zero or, without a sign,
2^(i + 1) above it."""


@cache
def _levels(signed: bool) -> tuple[float, ...]:
    found = [0.0, 1.0]
    for place in range(DECADES):
        edges = torch.linspace(0.1, 1.0, 2 ** (place if signed else place + 1) + 1, dtype=torch.float32)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (place - DECADES + 1)
        found += [*middles.tolist(), *((-middles).tolist() if signed else ())]
    return tuple(sorted(found))


def levels(device: torch.device | str = "cpu", signed: bool = True) -> Tensor:
    """The 256 levels in [-1, 1], or in [0, 1], increasing, float32."""
    return torch.tensor(_levels(signed), device=device)


def nearest(values: Tensor, signed: bool = True) -> Tensor:
    """Codes (uint8) of the levels next to values in their range."""
    known = levels(values.device, signed)
    return torch.bucketize(values, (known[1:] + known[:-1]) / 2).to(torch.uint8)
