"""Dimensions and points: values, conditions, sizes against brute force, order, reachable combinations."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spaces import points
from spaces.dimensions import Dimension
from spaces.objectives import Constraint


def dims(**forms):
    return {name: Dimension.model_validate(form) for name, form in forms.items()}


@pytest.mark.parametrize(
    ("form", "values", "count"),
    [
        ({"choice": ["a", [1], {"k": 2}]}, ("a", [1], {"k": 2}), 3),
        ({"int": [0, 8], "step": 4}, (0, 4, 8), 3),
        ({"int": [3, 3]}, (3,), 1),
        ({"int": [-2, 1]}, (-2, -1, 0, 1), 4),
        ({"float": [0, 1]}, (0.0, 1.0), None),
        ({"log": [1e-4, 1]}, (1e-4, 1.0), None),
    ],
)
def test_values_and_count(form, values, count):
    dimension = Dimension.model_validate(form)
    assert tuple(dimension.values()) == values
    assert dimension.count == count and dimension.finite == (count is not None)
    assert all(dimension.contains(value) for value in values)
    assert Dimension.model_validate(dimension.form()) == dimension


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "exactly one of choice, int, float, log; none of them given"),
        ({"choice": [1], "int": [0, 1]}, "choice and int given"),
        ({"choice": []}, "choice is empty"),
        ({"choice": [1, 1.0]}, "holds 1.0 twice"),
        ({"choice": [[1], [1]]}, "twice"),
        ({"int": [2, 1]}, "runs backwards"),
        ({"int": [0, 9], "step": 4}, "9 is not reached from 0 in steps of 4; write 8"),
        ({"float": [1, 1]}, "lower number first"),
        ({"log": [0, 1]}, "0 < lowest < highest"),
        ({"log": [2, 1]}, "0 < lowest < highest"),
        ({"choice": [1], "step": 2}, "step goes with int only"),
        ({"choice": [1], "when": {"a": []}}, "could never be searched"),
        ({"int": [0, 4], "step": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_dimensions(form, message):
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        Dimension.model_validate(form)


def test_true_is_not_one():
    dimension = Dimension(choice=(1, True))
    assert dimension.count == 2 and dimension.contains(True) and not Dimension(choice=(1,)).contains(True)
    assert Dimension(int=(0, 3)).contains(2.0) and not Dimension(int=(0, 3)).contains(True)
    assert not Dimension(float=(0, 3)).contains("1") and not Dimension(float=(0, 3)).contains(float("nan"))


@pytest.mark.parametrize(("value", "kind"), [(8.0, int), (4, int)])
def test_canonical_is_plain(value, kind):
    assert type(Dimension(int=(0, 8), step=4).canonical(value)) is kind
    assert type(Dimension(float=(0, 8)).canonical(value)) is float
    assert type(Dimension(choice=(4, 8)).canonical(value)) is int


QUANTIZERS = dict(
    frac={"int": [0, 8], "step": 2, "when": {"name": ["fixed", "pow2"]}},
    name={"choice": ["none", "fixed", "pow2"]},
    alpha={"choice": [8, 16], "when": {"rank": [4, 8]}},
    rank={"int": [0, 8], "step": 4},
    free={"choice": ["x", "y"]},
)


def test_order_puts_conditions_first_and_keeps_file_order_otherwise():
    assert points.order(dims(**QUANTIZERS)) == ["name", "frac", "rank", "alpha", "free"]
    with pytest.raises(points.CycleError, match="a -> b -> a"):
        points.order(dims(a={"choice": [1], "when": {"b": [1]}}, b={"choice": [1], "when": {"a": [1]}}))


def test_walk_gives_active_dimensions_only_and_each_point_once():
    found = list(points.walk(dims(**QUANTIZERS)))
    assert len(found) == points.count(dims(**QUANTIZERS)) == (1 + 5 + 5) * (1 + 2 + 2) * 2 == 110
    assert len({tuple(sorted(point.items())) for point in found}) == 110
    assert found[0] == {"name": "none", "rank": 0, "free": "x"} and found[1]["free"] == "y"
    assert all(("frac" in point) == (point["name"] != "none") for point in found)


def test_a_child_of_an_inactive_dimension_is_inactive():
    space = dims(
        a={"choice": [0, 1]}, b={"choice": [0, 1], "when": {"a": [1]}},
        c={"choice": [5, 6], "when": {"b": [0]}}
    )
    assert points.active(space, {"a": 0, "b": 0, "c": 5}) == {"a": 0}
    assert points.count(space) == len(list(points.walk(space))) == 1 + 1 + 2
    assert points.complete(space, {"a": 1}) == {"a": 1, "b": 0, "c": 5}


def test_can_hold():
    space = dims(
        a={"choice": [0, 1]},
        b={"choice": [0, 1], "when": {"a": [1]}},
        never={"choice": [1], "when": {"a": [0], "b": [1]}},
        ever={"choice": [1], "when": {"a": [1], "b": [1]}},
    )
    assert (not points.can_hold(space, "never") and points.can_hold(space, "ever")
            and points.can_hold(space, "a"))


def test_huge_ranges_cost_nothing():
    space = dims(seed={"int": [0, 10**12]}, child={"choice": [1, 2, 3], "when": {"seed": [7, 8]}},
                 lr={"int": [1, 10**9]})
    assert points.count(space) == (10**12 + 1 - 2 + 2 * 3) * 10**9
    found = list(points.reachable(space, ["child"]))
    assert {point["seed"] for point in found} == {0, 10**12, 7, 8}
    assert ([point for point in found if "child" in point]
            == [{"seed": s, "child": c} for s in (7, 8) for c in (1, 2, 3)])


def test_reachable_covers_parents_and_ends_of_continuous_dimensions():
    space = dims(name={"choice": ["a", "b"]}, x={"float": [0, 2], "when": {"name": ["b"]}},
                 other={"choice": [1, 2]})
    assert list(points.reachable(space, ["x"])) == [{"name": "a"}, {"name": "b", "x": 0.0},
                                                    {"name": "b", "x": 2.0}]
    assert list(points.reachable(space, [])) == [{}]
    assert len(list(points.reachable(dims(a={"int": [0, 10**9]}, b={"choice": list(range(50))}),
                                     ["a", "b"]))) == 100


@st.composite
def random_spaces(draw):
    """Finite spaces of up to five dimensions whose conditions point backwards, in shuffled file order."""
    names = ["a", "b", "c", "d", "e"][: draw(st.integers(1, 5))]
    forms = {}
    for index, name in enumerate(names):
        low = draw(st.integers(0, 2))
        form = draw(st.sampled_from([{"choice": [0, 1, 2]}, {"int": [low, low + 2]}, {"choice": [1]}]))
        parents = draw(st.lists(st.sampled_from(names[:index]), unique=True, max_size=2)) if index else []
        when = {parent: draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)) for parent in parents}
        forms[name] = {**form, "when": when}
    return dims(**{name: forms[name] for name in draw(st.permutations(names))})


@settings(max_examples=200, deadline=None)
@given(random_spaces())
def test_count_and_walk_agree_with_brute_force(space):
    values = [space[name].values() for name in space]
    brute = {
        tuple(sorted(points.active(space, dict(zip(space, combination, strict=True))).items()))
        for combination in itertools.product(*values)
    }
    walked = [tuple(sorted(point.items())) for point in points.walk(space)]
    assert set(walked) == brute and len(walked) == len(brute) == points.count(space)
    for name in space:
        assert points.can_hold(space, name) == any(name in dict(point) for point in brute)


def test_constraints():
    limit = Constraint.parse(" latency_ms<=4e1 ")
    assert limit == Constraint("latency_ms", "<=", 40.0) and str(limit) == "latency_ms <= 40"
    assert (limit.holds(40) and not limit.holds(41) and limit.violation(41) == 1
            and not limit.holds(float("nan")))
    assert Constraint.parse("diversity >= 0.5").violation(0.2) == pytest.approx(0.3)
    for text in ("latency_ms < 4", "latency_ms <= x", "<= 3", "a b <= 3", "a <= nan", "a <= inf",
                 "a == 3", ""):
        with pytest.raises(ValueError, match="is not METRIC <= NUMBER"):
            Constraint.parse(text)


@pytest.mark.parametrize(("text", "bound"), [
    ("size_bytes <= 200kB", 2e5), ("size_bytes <= 1.5 MB", 1.5e6), ("latency_ms <= 2s", 2000.0),
    ("latency_ms <= 5 ms", 5.0),
    ("train_seconds <= 2m", 120.0), ("controllability >= 90%", 0.9), ("perplexity <= 1e2", 100.0),
])
def test_bounds_in_units(text, bound):
    assert Constraint.parse(text).bound == pytest.approx(bound)


def test_a_unit_of_something_else():
    for text in ("size_bytes <= 4 ms", "latency_ms <= 4 kB", "perplexity <= 4 MB", "perplexity <= 4 5"):
        with pytest.raises(ValueError, match=re.escape(text)):
            Constraint.parse(text)
