"""Sensitivity of sites and the assignment of bits under a byte budget, against trying every assignment."""

import itertools

import numpy as np
import pytest
import torch
from calibration_problems import counted, inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.errors import UserError
from trainable.quantization.post_training.grid import GridParams
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.rtn import RoundToNearest
from trainable.quantization.post_training.sensitivity import (
    Cost,
    assign,
    assignments,
    hessian_trace,
    kl_per_bit,
    measure,
)


def table(rng: np.random.Generator, sites: int, choices: int, large: int = 0,
          spread: float = 1.0) -> list[Cost]:
    """Costs that fall with bits, as real ones do, but unevenly."""
    found = []
    for site in range(sites):
        values, weight = int(rng.integers(10, 5000)) + large, spread ** rng.random() * 1e-4
        for bits in range(2, 2 + choices):
            kl = weight * 4.0**-bits * rng.uniform(0.5, 2)
            stored = values * bits // 8 + int(rng.integers(50))
            found.append(Cost(f"site{site}", f"{bits} bits", stored, float(kl)))
    return found


def brute_force(costs: list[Cost], budget: int) -> float | None:
    """Least sum of KL over every assignment that fits; None when none does."""
    sites = dict.fromkeys(cost.site for cost in costs)
    groups = [[cost for cost in costs if cost.site == site] for site in sites]
    sums = [sum(cost.kl for cost in chosen) for chosen in itertools.product(*groups)
            if sum(cost.bytes for cost in chosen) <= budget]
    return min(sums) if sums else None


def extremes(costs: list[Cost]) -> tuple[int, int]:
    """Bytes of the smallest and of the largest assignment."""
    sites = {cost.site for cost in costs}
    least, most = (sum(pick(cost.bytes for cost in costs if cost.site == site) for site in sites)
                   for pick in (min, max))
    return least, most


def total(costs: list[Cost], chosen: dict[str, str]) -> tuple[int, float]:
    taken = [cost for cost in costs if chosen[cost.site] == cost.choice]
    assert len(taken) == len(chosen) == len({cost.site for cost in costs})
    return sum(cost.bytes for cost in taken), sum(cost.kl for cost in taken)


@given(seed=st.integers(0, 100_000), sites=st.integers(1, 5), choices=st.integers(1, 4),
       share=st.floats(0, 1), large=st.sampled_from([0, 1_000_000_000]), spread=st.sampled_from([1.0, 1e3]))
@settings(max_examples=60, deadline=None)
def test_the_assignment_is_the_best_of_all(seed, sites, choices, share, large, spread):
    costs = table(np.random.default_rng(seed), sites, choices, large, spread)
    least, most = extremes(costs)
    budget = int(least + share * (most - least))
    stored, kl = total(costs, assign(costs, budget))
    assert stored <= budget
    best = brute_force(costs, budget)
    assert kl - best <= 1e-6 * (max(cost.kl for cost in costs) - min(cost.kl for cost in costs)) + 1e-15


def test_a_budget_is_met_to_the_byte():
    costs = [Cost("a", "2", 1_000_000_000, 2.0), Cost("a", "4", 2_000_000_000, 1.0),
             Cost("b", "2", 1_000_000_000, 2.0), Cost("b", "4", 2_000_000_001, 0.5)]
    assert assign(costs, 3_000_000_001) == {"a": "2", "b": "4"}
    assert assign(costs, 3_000_000_000) == {"a": "4", "b": "2"}
    assert assign(costs, 4_000_000_001) == {"a": "4", "b": "4"}
    assert assign(costs, 2_000_000_000) == {"a": "2", "b": "2"}


def test_a_budget_that_nothing_meets_is_refused_in_one_line():
    costs = table(np.random.default_rng(0), 3, 3)
    least, _ = extremes(costs)
    message = f"no assignment of bits to 3 sites fits {least - 1} bytes; the smallest takes {least}"
    with pytest.raises(UserError, match=message):
        assign(costs, least - 1)
    assert brute_force(costs, least - 1) is None and total(costs, assign(costs, least))[0] == least
    with pytest.raises(UserError, match="no assignment"):
        assign(costs, 0)


@pytest.mark.parametrize("kl", [float("nan"), float("inf")])
def test_a_sensitivity_that_is_no_number_is_refused_in_one_line(kl):
    with pytest.raises(UserError, match="sensitivity of ffn at 4 bits is (nan|inf)"):
        assign([Cost("attention", "4 bits", 10, 0.1), Cost("ffn", "4 bits", 10, kl)], 100)


def test_start_points_span_the_budgets():
    costs = table(np.random.default_rng(1), 4, 4)
    found = assignments(costs, 6)
    sizes = [total(costs, each)[0] for each in found]
    losses = [total(costs, each)[1] for each in found]
    assert 3 <= len(found) <= 6 and sizes == sorted(sizes) and losses == sorted(losses, reverse=True)
    assert len(assignments(costs, 1)) == 1


def test_the_table_is_measured_site_by_site():
    weights = {"small": torch.randn(4, 16, generator=torch.Generator().manual_seed(0)),
               "large": torch.randn(64, 16, generator=torch.Generator().manual_seed(1))}
    second = counted(inputs(100, 16)).second_moment
    methods = {str(bits): RoundToNearest(GridParams(bits=bits)) for bits in (2, 4, 8)}

    def loss(site, choice):
        return hessian_trace(weights[site], quantize(methods[choice], weights[site]).weight, second)

    def stored(site, choice):
        return sum(part.bytes for part in methods[choice].layout(tuple(weights[site].shape)).values())

    costs = measure(weights, list(methods), stored, loss)
    assert [(cost.site, cost.choice) for cost in costs] == list(itertools.product(weights, methods))
    for cost in costs:
        assert cost.as_dict()["bytes"] == quantize(methods[cost.choice], weights[cost.site]).encoded.bytes
    slopes = kl_per_bit(costs, {site: weight.numel() for site, weight in weights.items()})
    assert slopes["large"] > 5 * slopes["small"] > 0
    error = (weights["small"] - quantize(methods["2"], weights["small"]).weight).double().square().sum()
    assert costs[0].kl == pytest.approx(float(second.trace() / 16 * error), rel=1e-6)


def test_no_sites_need_no_bits():
    assert assign([], 0) == {}


def test_one_choice_has_no_slope():
    assert kl_per_bit([Cost("a", "4", 10, 0.5)], {"a": 20}) == {"a": 0.0}
