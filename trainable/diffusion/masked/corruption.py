"""Masking: which positions of a row are hidden, and the state that a backbone sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainable.corpora.tokenized import START


@dataclass(frozen=True)
class State:
    """Rows in which some tokens are MASK.

    `ids` [B, L], `masked` [B, L] bool, `t` [B]: the time, where there is one (training). While sampling,
    `rows` [B] are the numbers of the samples that the rows belong to (finished ones leave the batch)
    and `step` counts passes.
    """

    ids: Tensor
    masked: Tensor
    t: Tensor | None = None
    rows: Tensor | None = None
    step: int = 0


def maskable(ids: Tensor) -> Tensor:
    """[B, L] bool: every position behind START; all positions of a row without one. START itself and
    a prompt before it are never masked."""
    start = ids == START
    return (start.cumsum(1).bool() | ~start.any(1, keepdim=True)) & ~start


def bernoulli_mask(share: Tensor, free: Tensor, generator: torch.Generator) -> Tensor:
    """Each position of `free` [B, L] is masked with chance share [B]."""
    u = torch.rand(free.shape, generator=generator, device=generator.device).to(free.device)
    return free & (u < share.to(free.device)[:, None])


def lowest(scores: Tensor, counts: Tensor, free: Tensor) -> Tensor:
    """[B, L] bool: in each row the `counts` [B] positions of `free` with the lowest scores (all, if there
    are fewer). Ties go to the left."""
    order = torch.where(free, scores, torch.inf).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order,
                                            torch.arange(free.shape[1], device=free.device).expand_as(order))
    return free & (rank < counts[:, None])


def exact_mask(counts: Tensor, free: Tensor, generator: torch.Generator) -> Tensor:
    """Exactly `counts` [B] positions of `free` [B, L] are masked, every set of that size alike."""
    u = torch.rand(free.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return lowest(u.to(free.device), counts, free)
