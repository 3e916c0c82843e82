"""The box of the hypervolume and the marks of members that were measured again."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pareto.front import Front
from search.pareto.geometry import contributions, hypervolume, spread_order
from search.pareto.reference_box import Box, choose_box
from search.pareto.stability import interval, stability
from spaces.errors import UserError
from spaces.objectives import Constraint, Objective

PPL, OK, MS = Objective("ppl", "minimize"), Objective("ok", "maximize"), Constraint("ms", "<=", 40.0)


def row(trial, ppl, ok, state="complete", **more):
    return {"trial": trial, "rung": 1, "state": state, "ppl": ppl, "ok": ok, **more}


def test_corners_go_in_and_out_in_the_metrics_own_units():
    corners = {"ppl": [4.0, 40.0], "ok": [1.0, 0.25]}
    box = Box.of(corners, [PPL, OK])
    assert box.corners() == corners and (box.best, box.worst) == ((4.0, -1.0), (40.0, -0.25))
    assert box.scaled(np.array([[4.0, -1.0], [22.0, -0.25]])).tolist() == [[0.0, 0.0], [0.5, 1.0]]
    with pytest.raises(ValueError, match="not .best, worst. of a metric to maximize"):
        Box.of({**corners, "ok": [0.0, 1.0]}, [PPL, OK])
    with pytest.raises(UserError, match="no corners of"):
        Box.of({"ppl": [4.0, 40.0]}, [PPL, OK])


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=8), st.floats(0.1, 1e6),
       st.floats(0.1, 1e6))
def test_the_share_does_not_depend_on_units(points, a, b):
    vectors = np.array(points)
    plain = Box.of({"ppl": [0, 1], "size": [0, 1]}, [PPL, Objective("size", "minimize")])
    other = Box.of({"ppl": [0, a], "size": [0, b]}, [PPL, Objective("size", "minimize")])
    assert other.hypervolume(vectors * [a, b]) == pytest.approx(plain.hypervolume(vectors), abs=1e-9)


def test_the_box_waits_for_enough_results_holds_them_and_stays():
    rows = [row(index, 20.0 + index, 0.5 - 0.1 * index) for index in range(4)]
    assert choose_box(rows, [PPL, OK], first=5) is None
    assert choose_box([*rows, row(9, 99.0, 0.0, "stopped")], [PPL, OK], first=5) is None
    found = choose_box(rows, [PPL, OK], first=4)
    assert found.corners() == {"ppl": pytest.approx([20 - 2.3, 23 + 2.3]), "ok": pytest.approx([0.53, 0.17])}
    assert found == choose_box([*rows, row(9, 999.0, -5.0)], [PPL, OK], first=4), "later rows do not move it"
    assert choose_box(rows, [PPL, OK], first=4, given={"ok": [1, 0]}).corners()["ok"] == [1.0, 0.0]
    assert (choose_box([], [PPL, OK], given={"ok": [1, 0], "ppl": [1, 9]}).corners()
            == {"ppl": [1, 9], "ok": [1, 0]})
    lone = choose_box([row(0, 0.0, 0.0)], [PPL, OK], first=1).corners()
    assert lone["ppl"] == [0.0, 0.1] and lone["ok"] == pytest.approx([0.1, -0.1]), (
        "no negative corner for what is not negative")


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=7))
def test_a_contribution_is_what_is_lost_without_the_row(points):
    vectors, reference = np.array(points), np.ones(3)
    parts = contributions(vectors, reference)
    for index, part in enumerate(parts):
        rest = hypervolume(np.delete(vectors, index, axis=0), reference)
        assert part == pytest.approx(max(0.0, hypervolume(vectors, reference) - rest), abs=1e-12)


def test_the_spread_order_starts_in_the_middle_and_then_goes_far():
    points = np.array([[0.0, 1.0], [0.1, 0.9], [0.3, 0.3], [0.9, 0.1], [1.0, 0.0]])
    order = spread_order(points).tolist()
    assert order[0] == 2 and set(order[1:3]) == {0, 4} and sorted(order) == list(range(5))
    assert (sorted(spread_order(np.zeros((3, 2))).tolist()) == [0, 1, 2]
            and spread_order(np.empty((0, 2))).tolist() == [])


@pytest.mark.parametrize("columns, mean, half, n, of", [
    ({"ppl_again": 10.0, "again": 1}, 10.0, 0.0, 1, "again"),
    ({"ppl_again": 10.0, "ppl_se_again": 0.5, "again": 4}, 10.0, 1.959964 * 0.5 / 2, 4, "again"),
    ({"ppl_again": 10.0, "ppl_again_sd": 2.0, "again": 4}, 10.0, 3.18244630528 * 2.0 / 2, 4, "again"),
    ({"ppl_again": 9.0, "again": 2, "ppl_seeds": 11.0, "ppl_seeds_sd": 1.0, "seeds": 3, "ppl_se_seeds": 0.1},
     11.0, 4.30265272991 / math.sqrt(3), 3, "seeds"),
])
def test_intervals(columns, mean, half, n, of):
    found = interval(columns, "ppl")
    assert (found.mean, found.n, found.of) == (mean, n, of) and found.half == pytest.approx(half, rel=1e-6)
    assert found.low == pytest.approx(mean - half) and interval({"ppl": 1.0}, "ppl") is None


def again(trial, ppl, ok, ppl_again, se=0.0, **more):
    return row(trial, ppl, ok, again=1, ppl_again=ppl_again, ppl_se_again=se, ok_again=ok, **more)


def test_a_member_is_held_open_or_lost():
    members = [again(0, 10.0, 0.5, 10.5, 0.1), again(1, 11.0, 0.6, 11.2, 1.0), again(2, 12.0, 0.7, 12.1, 0.1),
               again(3, 13.0, 0.8, 16.0), again(4, 14.0, 0.9, 15.0)]
    assert stability(members, [PPL, OK]) == ["held", "open", "held", "lost", "held"]
    assert stability([row(0, 1.0, 1.0)], [PPL, OK]) == [None]
    assert stability([again(0, 10.0, 0.5, 10.0, ms=30.0, ms_again=41.0)], [PPL, OK], [MS]) == ["lost"]


def test_marks_and_intervals_reach_the_table(tmp_path):
    front = Front.from_rows([again(0, 10.0, 0.5, 12.5), again(1, 12.0, 0.6, 12.0, 0.5)], [PPL, OK])
    frame = front.to_pandas()
    assert list(frame.columns[:9]) == ["trial", "rung", "state", "place", "figures", "ppl", "ppl_again",
                                       "ppl_again_low", "ppl_again_high"]
    assert frame["place"].tolist() == ["lost", "held"] and frame["figures"].tolist() == ["again", "again"]
    assert frame["ppl_again_high"].tolist() == pytest.approx([12.5, 12.0 + 0.979982])
    front.to_csv(tmp_path / "front.csv")
    assert '"lost"' in (tmp_path / "front.csv").read_text()
    assert [member["place"] for member in front.summary()["members"]] == ["lost", "held"]
