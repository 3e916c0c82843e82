"""Shares of successes and of configured counts."""

import math

import pytest

from trainable.metrics.base import scaled
from trainable.metrics.controllability import share_error


def test_error_of_a_share():
    assert [share_error(0, 8), share_error(8, 8)] == pytest.approx([math.sqrt(0.09 / 8)] * 2)
    assert share_error(5000, 10_000) == pytest.approx(0.005, rel=1e-3)


@pytest.mark.parametrize(("count", "share", "expected"),
                         [(128, 0.5, 64), (32, 1.0, 32), (1, 0.1, 1), (5, 0.5, 2)])
def test_scaled_counts(count, share, expected):
    assert scaled(count, share) == expected
