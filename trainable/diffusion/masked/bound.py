"""The variational bound of masked diffusion on -log p(row), with little noise and the same
masks for every model.

-log p(x) <= E over k uniform in 1..M and over sets of k of the M maskable positions of (M / k) sum of -log
p(x_i | seen) (the bound of arXiv 2406.07524 with the count drawn exactly, as LLaDA's get_log_likelihood.py
does; LLaDA permutes rows by a global generator there, so that its scores change from run to run).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainable.diffusion.masked.corruption import lowest, maskable
from trainable.diffusion.masked.streams import MASKS, row_seeds, uniforms
from trainable.models.masked_lm.backbone import MaskedLM

BATCH = 64
"""Rows of one forward pass."""


def exact_counts(free: Tensor, draws: int, seeds: Tensor) -> Tensor:
    """[B, draws] counts, each uniform in 1..M (M [B]: free positions), spread evenly over the draws of a row.

    Draws come in antithetic pairs, k and M + 1 - k; the first of the pairs lie M / pairs apart
    (LLaDA's spacing).
    """
    total = free.sum(1)
    pairs = -(-draws // 2)
    u = uniforms(seeds, draws, MASKS, 1)
    spaced = (u + torch.arange(pairs, device=free.device) / pairs) % 1
    first = torch.minimum((spaced * total[:, None]).long() + 1, total[:, None])
    both = torch.stack([first, total[:, None] + 1 - first], dim=2)
    return both.flatten(1)[:, :draws].clamp(min=0)


def paired_mask(free: Tensor, counts: Tensor, draw: int, seeds: Tensor) -> Tensor:
    """[B, L] bool: `counts` [B] of the free positions. The second draw of a pair masks from the other end
    of the order of the first, so that between them they mask every position (one of them twice)."""
    order = uniforms(seeds, draw // 2, MASKS, free.shape[1])
    return lowest(order if draw % 2 == 0 else -order, counts, free)


@torch.no_grad()
def bound_per_row(backbone: MaskedLM, ids: Tensor, generator: torch.Generator, draws: int = 16,
                  rows: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
    """Upper bound on -log p of each row, nats, [B] float64: an unbiased estimate from `draws` masks.

    Masks depend on the generator, the row's number (`rows` [B]; 0.. when not given) and the free positions,
    not on the model nor on the batch: compare models by the difference of their bounds under generators
    of one seed, row by row. START and a prompt before it are given and cost nothing; END and PAD
    must be explained.
    """
    rows = torch.arange(len(ids), device=ids.device) if rows is None else rows
    seeds = row_seeds(generator, rows)
    total = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    for start in range(0, len(ids), BATCH):
        part = slice(start, start + BATCH)
        total[part] = _bound(backbone, ids[part], seeds[part], draws,
                             None if condition is None else condition[part])
    return total


def _bound(backbone: MaskedLM, ids: Tensor, seeds: Tensor, draws: int, condition: Tensor | None) -> Tensor:
    free = maskable(ids)
    counts = exact_counts(free, draws, seeds)
    total = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    for draw in range(draws):
        masked = paired_mask(free, counts[:, draw], draw, seeds)
        nll = masked_nll(backbone, ids, masked, condition).sum(1)
        total += nll * free.sum(1) / counts[:, draw].clamp(min=1) / draws
    return total


def masked_nll(backbone: MaskedLM, ids: Tensor, masked: Tensor, condition: Tensor | None = None) -> Tensor:
    """[B, L] float64: -log p(token | seen ones) at the masked positions, 0 elsewhere."""
    logits = backbone(torch.where(masked, backbone.mask_id, ids), at=masked, condition=condition).float()
    nll = torch.zeros(ids.shape, dtype=torch.float64, device=ids.device)
    nll[masked] = F.cross_entropy(logits, ids[masked], reduction="none").double()
    return nll
