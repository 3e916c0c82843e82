"""Perplexity over sentences, and its error."""

import math

import numpy as np
import pytest
import torch

from trainable.metrics.perplexity import pooled_perplexity


def test_perplexity_pools_tokens_and_not_sentences():
    value, _ = pooled_perplexity(torch.tensor([2.0, 30.0]), torch.tensor([1, 9]))
    assert value == pytest.approx(math.exp(32 / 10))


def test_perplexity_error_agrees_with_a_bootstrap_over_sentences():
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 40, size=400)
    sums = counts * rng.normal(2.0, 0.4, size=400)
    value, error = pooled_perplexity(sums, counts)
    draws = rng.integers(400, size=(4000, 400))
    bootstrap = np.exp(sums[draws].sum(1) / counts[draws].sum(1))
    assert error == pytest.approx(bootstrap.std(), rel=0.05)
    assert value == pytest.approx(bootstrap.mean(), rel=0.01)


def test_perplexity_of_one_sentence_has_no_error():
    with pytest.raises(ValueError, match="at least 2"):
        pooled_perplexity([3.0], [2])
