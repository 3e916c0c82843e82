"""Rows that stay well-formed: what a masked position may become, against brute force over all ways
to finish a row."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.errors import UserError
from trainable.corpora.tokenized import END, PAD, START
from trainable.diffusion.masked import layout

MASK, WORD, LENGTH = 9, 5, 6


def finished() -> list[tuple[int, ...]]:
    """All well-formed rows of LENGTH positions over one word."""
    return [(START, *[WORD] * n, END, *[PAD] * (LENGTH - 2 - n)) for n in range(LENGTH - 1)]


def fitting(row: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [whole for whole in finished() if all(a in (b, MASK) for a, b in zip(row, whole, strict=True))]


EVERY = list(itertools.product((MASK, START), *[(MASK, WORD, END, PAD)] * (LENGTH - 1)))


def test_what_is_allowed_is_what_some_finished_row_has():
    rows = [row for row in EVERY if row[0] == START and fitting(row)]
    ids = torch.tensor(rows)
    may = layout.allowed(ids, ids == MASK)
    for row, word, end, pad in zip(rows, *(part.tolist() for part in may), strict=True):
        for i in range(LENGTH):
            possible = {whole[i] for whole in fitting(row)} if row[i] == MASK else set()
            assert (word[i], end[i], pad[i]) == (WORD in possible, END in possible, PAD in possible), (row, i)


def test_a_template_is_refused_just_when_no_finished_row_fits():
    for row in EVERY:
        if row[0] == START:
            ids = torch.tensor([row])
            if fitting(row):
                layout.check_template(ids, MASK)
            else:
                with pytest.raises(UserError, match="no START words END PAD"):
                    layout.check_template(ids, MASK)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([row for row in EVERY if row[0] == START and fitting(row)]),
       st.randoms(use_true_random=False))
def test_any_choice_of_allowed_values_leaves_a_row_that_can_be_finished(row, random):
    ids = torch.tensor([row])
    masked = ids == MASK
    for _ in range(LENGTH + 1):
        ids, masked = layout.settle(ids, masked, torch.zeros_like(masked), ids)
        assert fitting(tuple(torch.where(masked, MASK, ids)[0].tolist()))
        if not masked.any():
            break
        may = layout.allowed(ids, masked)
        values = ids.clone()
        for i in range(LENGTH):
            options = [kind for kind, part in zip((WORD, END, PAD), may, strict=True) if part[0, i]]
            if options:
                values[0, i] = random.choice(options)
        chosen = torch.tensor([[random.random() < 0.5 for _ in range(LENGTH)]]) & masked
        before, was = ids.clone(), masked.clone()
        ids, masked = layout.settle(ids, masked, chosen, values)
        assert not (masked & ~was).any()
        kept = ~was & ~layout.is_mark(before)
        assert torch.equal(ids[kept], before[kept])
    given_ = torch.tensor(row) != MASK
    if not masked.any():
        assert layout.well_formed(ids).all() and torch.equal(ids[0][given_], torch.tensor(row)[given_])


def test_a_posterior_is_cut_to_what_is_allowed_and_normalized():
    ids = torch.tensor([[START, MASK, WORD, MASK, MASK]])
    at = ids == MASK
    may = layout.allowed(ids, at)
    log_probs = torch.full((3, 9), 1 / 9).log()
    cut = layout.forbid(log_probs, at, may).exp()
    assert torch.allclose(cut.sum(1), torch.ones(3))
    words = torch.tensor([False, False, True, False, True, True, True, True, True])
    assert ((cut[0] > 0) == words).all()  # left of a word
    # the first place where END may stand
    assert (cut[1] > 0).tolist() == [False, True, True, False] + [True] * 5
    assert (cut[2] > 0).tolist() == [False, True, False, True] + [False] * 5  # the last position
    hopeless = torch.full((3, 9), -torch.inf)
    hopeless[:, START] = 0
    cut = layout.forbid(hopeless, at, may).exp()
    assert torch.allclose(cut[2], torch.tensor([0, 0.5, 0, 0.5, 0, 0, 0, 0, 0]))


def test_well_formed_rows_are_told_from_others():
    for row in itertools.product((START, WORD, END, PAD), repeat=4):
        good = row[0] == START and row in [(START, *[WORD] * n, END, *[PAD] * (2 - n)) for n in range(3)]
        if START not in row[1:] and row[0] == START:
            assert bool(layout.well_formed(torch.tensor([row]))[0]) == good, row
