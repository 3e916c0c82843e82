"""Length and context by construction, and their laws against enumeration."""

import pytest
import torch
from masked_models import drawing, sentences, tiny

from spaces.errors import UserError
from trainable.corpora.tokenized import END, PAD, START
from trainable.diffusion.masked.templates import (
    at_most,
    continued,
    gap_log_probs,
    length_log_probs,
    of_length,
    with_gap,
)
from trainable.registry import MASKED_SAMPLERS

EVERY = [(name, {"ends": ends}) for name in MASKED_SAMPLERS for ends in ("drawn", "ordered", "free")]


def words_of(row):
    return row[1:row.index(END)]


@pytest.mark.parametrize(("name", "params"), EVERY)
def test_every_text_has_the_length_and_the_context_asked_for(name, params):
    model = tiny()
    lengths = [i % 11 for i in range(44)]
    texts = drawing(model, name, 4, **params).sample(44, 12, torch.Generator().manual_seed(0),
                                                     prompt=of_length(lengths, 12))
    assert [len(words_of(row)) for row in texts.tolist()] == lengths
    assert all(word >= 2 and word != PAD for row in texts.tolist() for word in words_of(row))
    short = drawing(model, name, 4, **params).sample(40, 12, torch.Generator().manual_seed(0),
                                                     prompt=at_most(3, 40, 12))
    assert max(len(words_of(row)) for row in short.tolist()) <= 3
    left, right = [7, 8, 9], [10, 11]
    gapped = drawing(model, name, 4, **params).sample(20, 12, torch.Generator().manual_seed(0),
                                                      prompt=with_gap(left, right, 4, 12))
    for row in gapped.tolist():
        words = words_of(row)
        assert words[:3] == left and words[-2:] == right and len(words) == 9 and row[0] == START
    begun = drawing(model, name, 4, **params).sample(20, 12, torch.Generator().manual_seed(0),
                                                     prompt=continued(left, 12))
    assert all(words_of(row)[:3] == left for row in begun.tolist())


def test_lengths_have_the_law_of_the_rows():
    law = sentences(12, 7, 3)
    found = length_log_probs(law, continued([], 7)[None])[0].exp()
    sizes = (law.rows >= 4).sum(1)
    expected = torch.zeros(7).double().index_add_(0, sizes, law.chances)
    assert torch.allclose(found.double(), expected, atol=1e-6)
    texts = drawing(law, order="random", steps=99).sample(3000, 7, torch.Generator().manual_seed(0))
    share = torch.bincount((texts >= 4).sum(1), minlength=7) / 3000
    assert float((share - expected).abs().sum()) / 2 < 0.03


def test_gaps_have_the_law_of_the_rows():
    """Of all rows that begin and end as asked, by how many words lie between."""
    law = sentences(60, 7, 2)
    left, right = [4], [5, 4]
    weights = torch.zeros(4).double()
    for row, chance in zip(law.rows.tolist(), law.chances.tolist(), strict=True):
        words = words_of(row)
        if len(words) >= 3 and words[:1] == left and words[-2:] == right and len(words) <= 5:
            weights[len(words) - 3] += chance
    begins = sum(chance for row, chance in zip(law.rows.tolist(), law.chances.tolist(), strict=True)
                 if words_of(row)[:1] == left)
    found = gap_log_probs(law, left, right, [0, 1, 2], 7).exp()
    assert (weights > 0).sum() >= 2 and torch.allclose(found, weights[:3] / begins, atol=1e-5)


def test_what_does_not_fit_is_refused():
    for call in (lambda: of_length([3, 11],
                                   12), lambda: at_most(11, 2, 12), lambda: with_gap([4] * 5, [4] * 5, 1, 12),
                 lambda: continued([4] * 11, 12), lambda: gap_log_probs(tiny(), [4], [5], [9], 12)):
        with pytest.raises(UserError, match="11 words do not fit: rows of 12 positions hold 0 to 10"):
            call()
