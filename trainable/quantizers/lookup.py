"""Rows of a packed weight without unpacking the rest: a lookup reads the bytes of the rows that it wants."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from trainable.quantizers.base import Quantizer
from trainable.quantizers.blocks import BlockScaled, load_scale


def row_parts(quantizer: Quantizer, shape: tuple[int, int]) -> dict[str, bool] | None:
    """For each stored array, whether it holds one run per row (else all rows share it); None where
    rows cannot be told.

    Rows stand apart where a row's codes fill whole bytes and no scale or table belongs to a few rows.
    """
    whole, one = quantizer.layout(shape), quantizer.layout((1, shape[1]))
    if quantizer.adaptive:
        return None
    found = {}
    for name, part in whole.items():
        if part.count == shape[0] * one[name].count:
            found[name] = True
        elif part.count == one[name].count:
            found[name] = False
        else:
            return None
    return found


@torch.no_grad()
def look_up(quantizer: Quantizer, packed: dict[str, Tensor], shape: tuple[int, int], ids: Tensor) -> Tensor:
    """Rows `ids` (any shape) of the packed weight: float32 [..., cols], equal to
    `decode(packed, shape)[ids]` bit for bit.

    Raises ValueError where rows cannot be told apart (see `row_parts`).
    """
    per_row = row_parts(quantizer, shape)
    if per_row is None:
        raise ValueError(f"{quantizer.label}: rows of {shape[1]} values cannot be read alone")
    wanted = ids.flatten()
    part = {name: value.view(shape[0], -1)[wanted].flatten() if per_row[name] else value
            for name, value in packed.items()}
    return quantizer.decode(part, (len(wanted), shape[1])).view(*ids.shape, shape[1])


@torch.no_grad()
def row_range(quantizer: Quantizer, packed: dict[str, Tensor], shape: tuple[int, int], start: int,
              stop: int) -> Tensor:
    """Rows start..stop of the packed weight: float32 [stop - start, cols], equal to `decode(packed,
    shape)[start:stop]` bit for bit. Where rows stand apart but for scales that are quantized together, the
    scales alone are read whole; where they do not, everything is."""
    if isinstance(quantizer, BlockScaled) and quantizer.scale_kind in (8, "double"):
        scale = load_scale(quantizer.checked(packed, shape), quantizer.scale_kind).flatten()
        quantizer, packed = copy.copy(quantizer), {**packed, "scale": scale}
        quantizer.scale_kind = 32
        packed = {name: packed[name] for name in quantizer.layout(shape)}
    per_row = row_parts(quantizer, shape)
    if per_row is None:
        return quantizer.decode(packed, shape)[start:stop]
    part = {name: value.view(shape[0], -1)[start:stop].flatten() if per_row[name] else value
            for name, value in packed.items()}
    return quantizer.decode(part, (stop - start, shape[1]))
