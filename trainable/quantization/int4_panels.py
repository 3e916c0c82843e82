"""4-bit codes in the layout that torch multiplies."""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.compat import pack_int4
from trainable.quantizers.packing import unpack_bits

PANEL = 64
"""Outputs that torch's 4-bit layout keeps together."""


def int4_panels(codes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Packed codes in torch's layout, uint8 [out, in / 2].

    Panel by panel: unpacked whole, codes take eight times their size, which the heap of a process
    never gives back.
    """
    panels, size = torch.empty(shape[0], shape[1] // 2, dtype=torch.uint8), PANEL * shape[1] // 2
    for place, part in enumerate(codes.split(size)):
        unpacked = unpack_bits(part, 4, 2 * len(part)).view(-1, shape[1]) + 1  # torch's zero is code 8
        panels[PANEL * place:PANEL * (place + 1)] = pack_int4(unpacked)
    return panels
