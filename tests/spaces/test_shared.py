"""How many corpora, teachers and bases a space can ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.dimensions import Dimension
from spaces.points import distinct, walk
from spaces.schema import Space
from spaces.shared import combinations, deciding, demand


def space(search, budget=None, **trial):
    return Space.from_dict({"name": "toy", "search": search, "trial": trial,
                            "budget": budget or {"trials": 1000}, "objectives": {"size_bytes": "minimize"}})


LR = {"adapt.optim.lr": {"log": [1e-4, 1e-2]}}
PRECISION = {"runtime.precision": {"choice": ["fp32", "bf16"]}}


@pytest.mark.parametrize("search, corpora, teachers, bases", [
    (LR, 1, 1, 1),
    (LR | {"diffusion.timesteps": {"int": [1000, 12000]}}, 1, 1, 11001),
    (LR | {"diffusion.timesteps": {"int": [1000, 12000], "step": 1000}} | PRECISION, 1, 1, 24),
    (LR | {"corpus.min_count": {"choice": [1, 5, 10]}, "teacher.hidden": {"choice": [64, 128]}}, 3, 6, 3),
    (LR | {"base.seed": {"int": [0, 4]}}, 1, 5, 5),
    (LR | {"base.path": {"choice": [None, "a", "b"]}, "base.optim.steps": {"choice": [10, 20]}}, 1, 1, 2),
    (LR | {"base.path": {"choice": ["a", "b"]}}, 1, 1, 0),
])
def test_every_combination_of_the_settings_that_decide_is_one(search, corpora, teachers, bases):
    found = space(search)
    assert {kind: combinations(found, kind) for kind in ("corpus", "teacher", "base")} == {
        "corpus": corpora, "teacher": teachers, "base": bases}


def test_what_is_given_by_its_path_is_not_made():
    assert combinations(space(PRECISION, base={"path": "a"}), "base") == 0
    corpora = {"corpus.min_count": {"choice": [1, 5]}}
    assert combinations(space(corpora, teacher={"path": "gpt2"}), "teacher") == 0


def test_no_more_are_needed_than_there_are_trials():
    search = LR | {"diffusion.timesteps": {"int": [1000, 12000]}}
    assert demand(space(search, {"trials": 5})) == {"corpus": 1, "teacher": 1, "base": 5}
    assert demand(space(search, {"time": "1h"})) == {"corpus": 1, "teacher": 1, "base": 11001}


def test_a_path_decides_about_what_its_group_is_part_of():
    dimensions = space({"model.dropout": {"choice": [0.0, 0.1]}, "base.seed": {"int": [0, 1]},
                        "base.optim.lr": {"choice": [0.1, 0.2]}} | PRECISION | LR).dimensions
    assert deciding(dimensions, "corpus") == [] and deciding(dimensions, "teacher") == ["base.seed"]
    assert deciding(dimensions, "base") == ["model.dropout", "base.seed", "base.optim.lr",
                                            "runtime.precision"]


@st.composite
def dimensions(draw):
    """Up to four finite dimensions, each of which may depend on an earlier one."""
    found = {}
    for path in "abcd"[:draw(st.integers(1, 4))]:
        parent = draw(st.sampled_from([None, *found]))
        when = {}
        if parent:
            values = st.sampled_from(list(found[parent].values()))
            when = {parent: tuple(draw(st.lists(values, min_size=1, max_size=3, unique=True)))}
        found[path] = Dimension(**{"int": (0, draw(st.integers(0, 4)))}, when=when)
    return found


@given(dimensions(), st.data())
def test_distinct_counts_what_walking_all_points_finds(found, data):
    paths = data.draw(st.lists(st.sampled_from(list(found)), min_size=1, unique=True))
    seen = {tuple(point.get(path) for path in paths) for point in walk(found)}
    assert distinct(found, paths) == len(seen)
