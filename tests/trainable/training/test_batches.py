"""Batches in pairs: as many texts as often as without, by other company; short ones still have all positions
at times."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.corpora.tokenized import PAD
from trainable.training.batches import SHORTER, Batches, lengths, occupied

POSITIONS = 24


def corpus(count: int, seed: int = 0) -> np.ndarray:
    """`count` rows of 1 to 24 positions, all lengths alike often; the first word is the row's number."""
    rng = np.random.default_rng(seed)
    ids = np.where(np.arange(POSITIONS) < rng.integers(1, POSITIONS + 1, count)[:, None], 5, PAD)
    ids[:, 0] = np.arange(count) + 10
    return ids.astype(np.int32)


def test_lengths_end_with_the_last_word_and_not_with_the_first_padding():
    ids = np.array([[5, PAD, 5, PAD], [5, 5, 5, 5], [PAD] * 4, [0, PAD, PAD, PAD]], dtype=np.int32)
    assert lengths(ids).tolist() == [3, 4, 0, 1]
    assert lengths(ids[:0]).tolist() == []


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 70), batch=st.integers(1, 9), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_two_batches_share_the_texts_that_they_have_without_pairs(count, batch, seed, epoch):
    ids = corpus(count)
    plain, pairs = (Batches(ids, batch, seed, 0, 1, pairs=pairs) for pairs in (False, True))
    per_epoch = count // pairs.batch
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    rows = [pairs.rows(step) for step in steps]
    assert all(len(one) == pairs.batch for one in rows)
    assert len(set(np.concatenate(rows))) == per_epoch * pairs.batch
    for first in range(0, per_epoch - 1, 2):
        own = np.concatenate(rows[first:first + 2])
        other = np.concatenate([plain.rows(steps[first]), plain.rows(steps[first] + 1)])
        assert sorted(own) == sorted(other)
        narrow = min(lengths(ids[one]).max() for one in rows[first:first + 2])
        assert narrow <= np.sort(lengths(ids[own]))[max(int(len(own) * SHORTER), batch) - 1]
    if per_epoch % 2:  # the last has no other
        assert rows[-1].tolist() == plain.rows(steps[-1]).tolist()


def test_any_step_can_be_asked_for_first():
    ids = corpus(200)
    whole = Batches(ids, 8, 3, 0, 1, pairs=True)
    rows = [whole.rows(step).tolist() for step in range(60)]
    for step in (59, 26, 25, 1, 24, 0):
        assert Batches(ids, 8, 3, 0, 1, pairs=True).rows(step).tolist() == rows[step]
        assert whole.rows(step).tolist() == rows[step]


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_the_batch_that_one_would_have(workers):
    ids = corpus(200)
    alone = Batches(ids, 8, 3, 0, 1, pairs=True)
    shares = [Batches(ids, 8, 3, rank, workers, pairs=True) for rank in range(workers)]
    for step in range(30):
        parts = [share.rows(step) for share in shares]
        assert all(len(part) == 8 // workers for part in parts)
        assert sorted(np.concatenate(parts)) == sorted(alone.rows(step))


def test_narrow_batches_leave_positions_out_and_come_first_as_often_as_second():
    batches = Batches(corpus(6400), 32, 0, 0, 1, pairs=True)
    widths = np.array([occupied(batches.at(step)) for step in range(2000)]).reshape(-1, 2)
    assert (widths.max(1) == POSITIONS).all() and widths.min(1).mean() < POSITIONS * SHORTER + 4
    assert 0.42 < (widths[:, 0] < widths[:, 1]).mean() < 0.58


def test_of_short_texts_a_third_is_in_the_wide_batch_whatever_their_length():
    ids = corpus(6400)
    long = lengths(ids)
    batches, counts = Batches(ids, 32, 0, 0, 1, pairs=True), np.zeros((POSITIONS + 1, 2))
    for step in range(0, 4000, 2):
        pair = sorted((batches.rows(step), batches.rows(step + 1)), key=lambda rows: long[rows].max())
        for side, rows in enumerate(pair):
            np.add.at(counts[:, side], long[rows], 1)
    share = counts[:, 1] / counts.sum(1).clip(1)
    assert (abs(share[1:15] - 1 / 3) < 0.03).all() and (share[22:] > 0.99).all()


def test_a_texts_place_in_its_batch_says_nothing_about_its_length():
    """The mean length by place, over 4,000 batches: within five standard errors of the mean of all. Two
    workers have every other place."""
    ids = corpus(6400)
    batches, long = Batches(ids, 32, 0, 0, 1, pairs=True), lengths(ids)
    of = np.stack([long[batches.rows(step)] for step in range(4000)])
    assert (abs(of.mean(0) - of.mean()) < 5 * of.std() / len(of) ** 0.5).all()


def test_texts_of_one_length_are_batches_all_the_same():
    ids = np.full((40, 6), 5, dtype=np.int32)
    batches = Batches(ids, 8, 0, 0, 1, pairs=True)
    assert sorted(np.concatenate([batches.rows(step) for step in range(5)])) == list(range(40))
    assert torch.equal(batches.at(0), torch.full((8, 6), 5))
