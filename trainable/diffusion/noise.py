"""Where the random numbers of a batch come from."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Streams(NamedTuple):
    """Noise of texts that are drawn in one batch and belong to several requests: each generator draws for its
    own number of rows, as it would for these alone."""

    generators: tuple[torch.Generator, ...]
    rows: tuple[int, ...]


Noise = torch.Generator | Streams


def by_row(noise: Noise, n: int) -> list[torch.Generator]:
    """Whose each of n rows is."""
    if isinstance(noise, torch.Generator):
        return [noise] * n
    return [each for each, rows in zip(*noise, strict=True) for _ in range(rows)]
