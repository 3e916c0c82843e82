"""The standard error of the bound: what the draw of times does is in it."""

import pytest
import torch

from trainable.metrics.nll_bound import standard_error


def draws(generator, common, size=8, batches=8):
    """`batches` batches of `size` texts: those of a batch are off together by `common` nats a word, each of
    them by 0.1 more."""
    words = torch.randint(4, 20, (size * batches,), generator=generator).double()
    shared = common * torch.randn(batches, generator=generator).double().repeat_interleave(size)
    alone = 0.1 * torch.randn(size * batches, generator=generator).double()
    return words * (3 + shared + alone), words, [size] * batches


@pytest.mark.parametrize("common", [0.0, 0.1])
def test_the_error_is_that_of_repeats_with_other_texts_and_times(common):
    generator = torch.Generator().manual_seed(0)
    found = [draws(generator, common) for _ in range(400)]
    means = torch.tensor([float(total.sum() / words.sum()) for total, words, _ in found])
    told = sum(standard_error(*one) for one in found) / len(found)
    true = float(means.std())
    assert 0.85 * true < told < 1.3 * true
    if common:
        plain = [standard_error(total, words, [1] * len(words)) for total, words, _ in found]
        assert sum(plain) / len(plain) < 0.6 * true, "sentences alone do not tell it"


def test_by_hand():
    total, words = torch.tensor([6.0, 2.0]).double(), torch.tensor([2.0, 2.0]).double()
    assert standard_error(total, words, [1, 1]) == pytest.approx((2 * (2**2 + 2**2)) ** 0.5 / 4)
    assert standard_error(total, words, [2]) == pytest.approx((2**2 + 2**2) ** 0.5 / 4)
