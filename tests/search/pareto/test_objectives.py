import math

import numpy as np
import pytest

from search.pareto.geometry import dominators
from search.pareto.objectives import (
    dominates,
    fault,
    feasible,
    matrix,
    measured,
    measurements,
    searched,
    total_violation,
    violation,
)
from spaces.objectives import Constraint, Objective

LESS, MORE = Objective("perplexity", "minimize"), Objective("success", "maximize")
FAST, ACCURATE = Constraint("latency_ms", "<=", 40.0), Constraint("success", ">=", 0.5)


@pytest.mark.parametrize("one, other", [((1, 2), (1, 3)), ((1, 2), (1, 2)), ((1, 3), (2, 2)),
                                        ((math.nan, 0), (1, 1)), ((0, 0), (1, math.nan)), ((2, 2), (1, 1))])
def test_one_vector_dominates_another_as_in_geometry(one, other):
    assert dominates(one, other) == dominators(np.array([one], dtype=float), np.array(other))[0]


def test_vectors_are_minimized_and_missing_is_nan():
    rows = [{"perplexity": 20, "success": 0.9}, {"perplexity": np.float32(1.5)},
            {"perplexity": None, "success": "0.9"}]
    found = matrix(rows, [LESS, MORE])
    np.testing.assert_array_equal(found, [[20, -0.9], [1.5, np.nan], [np.nan, np.nan]])
    assert matrix([], [LESS, MORE]).shape == (0, 2)


def test_a_boolean_is_not_a_measurement():
    assert math.isnan(measured({"success": True}, "success"))


@pytest.mark.parametrize("latency, amount", [(50, 0.25), (40, 0.0), (20, -0.5)])
def test_violation_is_relative_to_the_bound(latency, amount):
    assert violation({"latency_ms": latency}, FAST) == pytest.approx(amount)


def test_violation_of_a_lower_bound_of_a_zero_bound_and_of_a_negative_bound():
    assert violation({"success": 0.25}, ACCURATE) == pytest.approx(0.5)
    assert violation({"x": 3.0}, Constraint("x", "<=", 0.0)) == pytest.approx(3.0)
    assert violation({"x": -1.0}, Constraint("x", "<=", -2.0)) == pytest.approx(0.5)


def test_feasibility_needs_every_metric_but_violations_add_only_what_is_known():
    row = {"latency_ms": 60}
    assert total_violation(row, [FAST, ACCURATE]) == pytest.approx(0.5)
    assert not feasible({"latency_ms": 10}, [FAST, ACCURATE]), "success was not measured"
    assert not feasible({"latency_ms": math.nan}, [FAST])
    assert feasible({"latency_ms": 40, "success": 0.5}, [FAST, ACCURATE])
    slack = {"latency_ms": 10, "success": 0.0}
    assert total_violation(slack, [FAST, ACCURATE]) == pytest.approx(1.0), "no credit for slack"


@pytest.mark.parametrize("metrics, expected", [
    ({"perplexity": 3.0, "success": 1.0, "latency_ms": 1}, None),
    ({"perplexity": 3.0, "success": 1.0, "latency_ms": 99}, None),
    ({"perplexity": math.nan, "success": 1.0, "latency_ms": 1}, "objective perplexity is nan"),
    ({"perplexity": math.inf, "success": 1.0, "latency_ms": 1}, "objective perplexity is inf"),
    ({"success": 1.0, "latency_ms": 1}, "objective perplexity was not measured"),
    ({"perplexity": 3.0, "success": 1.0},
     "metric latency_ms of constraint 'latency_ms <= 40' was not measured"),
    (None, "objective perplexity was not measured"),
])
def test_fault_names_what_keeps_a_result_from_counting(metrics, expected):
    assert fault(metrics, [LESS, MORE], [FAST]) == expected


def test_a_row_splits_into_measurements_and_searched_values():
    row = {"trial": 3, "state": "rung", "seconds": 1.0,
           "config.lora.rank": 4, "perplexity": 2.0, "oracle": "grammar"}
    assert measurements(row) == {"perplexity": 2.0, "oracle": "grammar"}
    assert searched(row) == {"lora.rank": 4}
