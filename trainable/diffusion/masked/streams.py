"""Random numbers that belong to a row: a function of its seed, the step, and what they are for,
and of nothing else.

A row's text must not depend on which other rows are in the batch, nor on how a batch is split; one generator
for a batch cannot give that. SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) is a counter put through a hash,
so that all numbers of all rows are computed at once, on any device, with the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.diffusion.noise import Noise, Streams

GAMMA = 0x9E3779B97F4A7C15
VALUE, ORDER, REMASK, ENDS, MASKS = range(5)
"""What numbers are for: a purpose has numbers of its own."""
PURPOSES, WIDTH = 8, 1 << 24


def splitmix64(seeds: Tensor, counters: Tensor) -> Tensor:
    """Output number `counters` (from 0) of SplitMix64 started at `seeds`: int64 of the broadcast shape,
    all 64 bits used."""
    x = seeds + (counters + 1) * _signed(GAMMA)  # int64 arithmetic wraps around, as the algorithm wants
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def row_seeds(generator: Noise, rows: Tensor) -> Tensor:
    """[n] int64: a seed for each of the row numbers [n], from one draw of the generator, or of each for its
    own rows."""
    if isinstance(generator, Streams):
        parts = zip(generator.generators, rows.split(list(generator.rows)), strict=True)
        return torch.cat([row_seeds(each, own - own.min()) for each, own in parts])
    start = torch.randint(2**62, (), generator=generator, device=generator.device).to(rows.device)
    return splitmix64(start, rows)


def uniforms(seeds: Tensor, step: int, purpose: int, width: int) -> Tensor:
    """[B, width] float64 in [0, 1) for rows with seeds [B]."""
    if width > WIDTH:
        raise ValueError(f"{width} numbers asked for at once; there are {WIDTH}")
    counters = (step * PURPOSES + purpose) * WIDTH + torch.arange(width, device=seeds.device)
    return _shift(splitmix64(seeds[:, None], counters), 11).double() * 2.0**-53


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: int64's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
