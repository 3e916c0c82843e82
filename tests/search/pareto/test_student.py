"""The t quantile against scipy's."""

import pytest
from scipy.special import stdtrit

from search.pareto.student import student_t


@pytest.mark.parametrize("freedom", [*range(1, 31), 99, 100, 1000, 1001])
def test_the_quantile_is_scipys(freedom):
    assert student_t(freedom) == pytest.approx(float(stdtrit(freedom, 0.975)), rel=1e-9)
