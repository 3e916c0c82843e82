"""The quasi-random sampler covers the dimensions that are always active, from the first trial on,
and warns of nothing."""

import logging

import optuna
import pytest

from search.study.searcher import StudySearcher
from spaces.dimensions import Dimension
from spaces.objectives import Objective

PLAIN = {"x": Dimension(**{"float": [0.0, 1.0]}), "kind": Dimension(choice=["a", "b"])}
NESTED = PLAIN | {"deep": Dimension(**{"float": [0.0, 1.0], "when": {"kind": ["b"]}})}


@pytest.mark.parametrize("space", [PLAIN, NESTED], ids=["plain", "with a condition"])
@pytest.mark.parametrize("flying", [1, 8])
def test_every_slice_of_a_range_is_met_once(space, flying, caplog):
    searcher = StudySearcher(space, [Objective("loss", "minimize")], sampler="qmc", seed=3)
    asked = []
    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            while len(asked) < 16:
                asked.append(searcher.ask())
                if len(asked) >= flying:
                    searcher.tell(asked[len(asked) - flying].number, "complete", {"loss": 1.0})
    finally:
        optuna.logging.disable_propagation()
    assert sorted(int(16 * item.values["x"]) for item in asked) == list(range(16))
    assert [item.values["kind"] for item in asked].count("a") == 8
    assert all(("deep" in item.values) == (space is NESTED and item.values["kind"] == "b") for item in asked)
    assert not caplog.records
