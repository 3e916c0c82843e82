"""Rows of a checkpoint's token table in our order."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

Source = Sequence[int]
"""Rows of a checkpoint's table whose mean a row of ours is; none: the mean of all."""


def gathered(table: Tensor, sources: Sequence[Source]) -> Tensor:
    """[len(sources), ...] rows of a table, in its dtype."""
    alone = torch.tensor([source[0] if len(source) == 1 else 0 for source in sources])
    made = table.index_select(0, alone)
    mean = functools.cache(lambda: table.mean(0, dtype=torch.float32))
    for i, source in enumerate(sources):
        if len(source) != 1:
            made[i] = (table[list(source)].float().mean(0) if source else mean()).to(table.dtype)
    return made
