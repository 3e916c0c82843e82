"""The bound against enumeration, a uniform model, and a model that knows the answer."""

import itertools
import math

import pytest
import torch
from masked_models import random_rows as rows
from masked_models import sentences, tiny

from trainable.diffusion.masked.bound import bound_per_row, exact_counts, masked_nll, paired_mask
from trainable.diffusion.masked.corruption import maskable
from trainable.diffusion.masked.streams import row_seeds


def enumerated(model, ids):
    """[B] nats: the expectation over counts and sets, every set visited."""
    free = maskable(ids)[0].nonzero()[:, 0].tolist()
    total = torch.zeros(len(ids), dtype=torch.float64)
    for k in range(1, len(free) + 1):
        sets = list(itertools.combinations(free, k))
        for hidden in sets:
            masked = torch.zeros_like(ids, dtype=torch.bool)
            masked[:, list(hidden)] = True
            total += masked_nll(model, ids, masked).sum(1) / k / len(sets)
    return total.detach()


def test_a_model_that_knows_the_law_of_its_rows_has_exactly_their_likelihood():
    law = sentences(12, 6, 4)
    assert torch.allclose(enumerated(law, law.rows), -law.chances.log(), atol=1e-9)


def test_the_estimate_is_unbiased():
    model, ids = tiny(10), rows(3, 6, 10)
    exact = enumerated(model, ids)
    tries = bound_per_row(model, ids.repeat(300, 1), torch.Generator().manual_seed(0), draws=4).view(300, 3)
    error = tries.std(0) / len(tries) ** 0.5
    assert ((tries.mean(0) - exact).abs() < 4 * error).all()


@pytest.mark.parametrize("draws", [1, 2, 7, 16])
def test_a_uniform_model_has_log_v_for_each_token_whatever_the_masks(draws):
    model, ids = tiny(20, tied=False), rows()
    with torch.no_grad():
        model.head.weight.zero_()
    nats = bound_per_row(model, ids, torch.Generator().manual_seed(0), draws)
    assert torch.allclose(nats, torch.full((6,), 8 * math.log(20), dtype=torch.float64), rtol=1e-6)


def test_masks_are_the_same_for_every_model_and_in_every_batch():
    """So that two models differ by what they know and not by what they were asked."""
    ids, generator = rows(9), torch.Generator()
    order = torch.randperm(9)
    for model in (tiny(seed=1), tiny(seed=2)):
        whole = bound_per_row(model, ids, generator.manual_seed(4), 6)
        mixed = bound_per_row(model, ids[order], generator.manual_seed(4), 6, rows=order)
        assert torch.allclose(mixed, whole[order], rtol=1e-6)
        assert not torch.allclose(whole, bound_per_row(model, ids, generator.manual_seed(5), 6))


def test_counts_are_spread_and_antithetic_and_pairs_cover_the_row():
    ids = rows(50, 12)
    free, seeds = maskable(ids), row_seeds(torch.Generator().manual_seed(0), torch.arange(50))
    counts = exact_counts(free, 22, seeds)  # M = 11: eleven pairs
    assert counts.min() == 1 and counts.max() == 11
    assert (counts[:, ::2].sort(1).values == torch.arange(1, 12)).all()  # each count once
    assert (counts[:, ::2] + counts[:, 1::2] == 12).all()
    for draw in (0, 1, 6, 7):
        assert torch.equal(paired_mask(free, counts[:, draw], draw, seeds).sum(1), counts[:, draw])
    first, second = (paired_mask(free, counts[:, draw], draw, seeds) for draw in (4, 5))
    assert torch.equal(first | second, free) and ((first & second).sum(1) == 1).all()
    few = exact_counts(free, 3, seeds)
    assert few.shape == (50, 3)
