"""Rows of a packed weight without unpacking the rest: a lookup reads the bytes of the rows that it wants."""

from __future__ import annotations

import copy
from collections.abc import Iterator

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


def row_runs(quantizer: Quantizer, packed: dict[str, Tensor], shape: tuple[int, int],
             step: int) -> Iterator[tuple[slice, Tensor]]:
    """Runs of `step` rows of the packed weight, the last perhaps shorter: float32 [run, cols], together equal
    to `decode(packed, shape)` bit for bit. Scales that are quantized together are read once; where rows
    do not stand apart otherwise, everything is."""
    with torch.no_grad():
        if isinstance(quantizer, BlockScaled) and quantizer.scale_kind in (8, "double"):
            scale = load_scale(quantizer.checked(packed, shape), quantizer.scale_kind).flatten()
            quantizer, packed = copy.copy(quantizer), {**packed, "scale": scale}
            quantizer.scale_kind = 32
            packed = {name: packed[name] for name in quantizer.layout(shape)}
        per_row = row_parts(quantizer, shape)
        whole = quantizer.decode(packed, shape) if per_row is None else None
    for start in range(0, shape[0], step):
        run = slice(start, min(start + step, shape[0]))
        with torch.no_grad():
            if whole is not None:
                yield run, whole[run]
                continue
            part = {name: value.view(shape[0], -1)[run].flatten() if per_row and per_row[name] else value
                    for name, value in packed.items()}
            rows = quantizer.decode(part, (run.stop - run.start, shape[1]))
        yield run, rows
