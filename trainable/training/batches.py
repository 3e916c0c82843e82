"""Which texts a training step has, and how many positions of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spaces.errors import UserError
from trainable.corpora.tokenized import PAD

STRIDE = 4
"""Batches that end with their longest text have one of few lengths: each is a graph of its own."""
SHORTER = 3 / 4
"""Of a pair's texts, those that its narrow batch is drawn from. Half of them would be the narrow batch: no
short text had all positions then, and a model that never sees one so has a worse bound (docs/log.md)."""


class Batches:
    """Endless shuffled batches from an [N, L] array; each worker takes a share of its own, all equally large.

    A batch is as large as asked for, or as the text allows where that is less. `pairs`: each two batches of
    an epoch share their texts anew: one, in random order the first or the second, has half of them drawn from
    the shorter `SHORTER`, the other has the rest. Raises `UserError` where the workers cannot share a batch
    equally, which DDP takes for granted: it weighs their means alike.
    """

    def __init__(self, ids: np.ndarray, batch: int, seed: int, rank: int, world_size: int,
                 pairs: bool = False):
        if batch % world_size or len(ids) < world_size:
            raise UserError(
                f"hardware.workers: {world_size} workers cannot share batches of {batch} out of {len(ids)} "
                f"sentence(s); legal: batch_size a multiple of {world_size}, and a sentence for each worker")
        self.ids, self.batch, self.seed = ids, min(batch, len(ids) // world_size * world_size), seed
        self.rank, self.world_size = rank, world_size
        self._lengths = lengths(ids) if pairs else None

    def at(self, step: int) -> Tensor:
        """Batch number `step`: [batch / world_size, L] int64. A pure function of seed and step,
        so a resume is exact."""
        return torch.from_numpy(np.asarray(self.ids[self.rows(step)], dtype=np.int64))

    def rows(self, step: int) -> np.ndarray:
        """Which rows batch number `step` holds, in random order: what depends on a sentence's place in the
        batch must not depend on its place in the corpus."""
        per_epoch = len(self.ids) // self.batch
        epoch, offset = divmod(step, per_epoch)
        order = self._order(epoch)[offset * self.batch:(offset + 1) * self.batch]
        return order[self.rank::self.world_size]

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(len(self.ids))
            if self._lengths is not None:
                order = paired(order, self._lengths, self.batch, generator)
            self._epoch, self._permutation = epoch, order
        return self._permutation


def paired(order: np.ndarray, lengths: np.ndarray, batch: int, generator: np.random.Generator) -> np.ndarray:
    """The random `order` [N] of rows of these `lengths`, in which each two batches have shared their texts
    anew (see `Batches`), in random order within each. What fills no two batches stays as it is."""
    both = 2 * batch
    shorter = int(both * SHORTER)
    of = order[:len(order) // both * both].reshape(-1, both)
    of = np.take_along_axis(of, lengths[of].argsort(axis=1, kind="stable"), axis=1)
    drawn = generator.permuted(of[:, :shorter], axis=1)
    narrow, left = drawn[:, :batch], drawn[:, batch:]
    wide = generator.permuted(np.concatenate([left, of[:, shorter:]], axis=1), axis=1)
    swapped = generator.random(len(of)) < 0.5
    pairs = np.stack([narrow, wide], axis=1)
    pairs[swapped] = pairs[swapped, ::-1]
    return np.concatenate([pairs.reshape(-1), order[pairs.size:]])


def lengths(ids: np.ndarray) -> np.ndarray:
    """[N] positions up to the end of each text of [N, L]; 0 where there is none."""
    found = np.zeros(len(ids), dtype=np.int32)
    for position in range(ids.shape[1]):  # column by column: a corpus of millions is not held again
        found[ids[:, position] != PAD] = position + 1
    return found


def occupied(ids: Tensor) -> int:
    """Positions of a batch [B, L] up to the end of its longest text, in whole `STRIDE`s, L at most."""
    longest = int((ids != PAD).any(0).nonzero().max()) + 1
    return min(ids.shape[1], -(-longest // STRIDE) * STRIDE)
