import json
import math
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from search.pareto import front as front_module
from search.pareto.front import Front, attainment
from search.pareto.reference_box import Box
from search.pareto.table import column_types, to_table
from spaces.dimensions import Dimension
from spaces.objectives import Constraint, Objective

PPL, OK, MS = Objective("ppl", "minimize"), Objective("ok", "maximize"), Constraint("ms", "<=", 40.0)


def row(trial, ppl, ok, state="complete", **more):
    return {"trial": trial, "rung": 1, "state": state, "ppl": ppl, "ok": ok, **more}


def trials(front):
    return [member["trial"] for member in front]


def test_only_complete_finite_feasible_rows_count():
    rows = [
        row(0, 20.0, 0.9, ms=30), row(1, 1.0, 1.0, "stopped", ms=1), row(2, 1.0, 1.0, "rung", ms=1),
        row(3, math.nan, 1.0, ms=1), row(4, 1.0, math.inf, ms=1), row(5, 1.0, 1.0, ms=41), row(6, 1.0, 1.0),
        row(7, 30.0, 0.95, ms=40), row(8, 30.0, 0.8, ms=1),
    ]
    front = Front.from_rows(rows, [PPL, OK], [MS])
    assert trials(front) == [0, 7]
    assert sorted(item["trial"] for item in front.candidates) == [0, 7, 8]


def test_equal_results_of_different_trials_are_all_members_but_a_trial_counts_once():
    rows = [row(0, 20.0, 0.9), row(1, 20.0, 0.9), row(0, 19.0, 0.9), row(1, 19.0, 0.9), row(2, 5.0, 0.1)]
    front = Front.from_rows(rows, [PPL, OK])
    assert trials(front) == [2, 0, 1], "ordered by the first objective, then by trial"
    assert [member["ppl"] for member in front] == [5.0, 19.0, 19.0]
    assert sorted(front.crowding.tolist()) == [0.0, math.inf, math.inf]


@pytest.mark.parametrize("axes", [1, 2, 4])
def test_a_front_of_few_is_found_without_numpy(axes, monkeypatch):
    vectors = [tuple(map(float, row)) for row in np.random.default_rng(0).integers(0, 9, size=(90, axes))]
    found = front_module._nondominated(vectors)
    monkeypatch.delitem(sys.modules, "numpy")
    assert front_module._nondominated(vectors) == found and len(found) >= axes
    assert "numpy" not in sys.modules


def test_an_empty_front_is_a_front(tmp_path):
    front = Front.from_rows([row(0, 1.0, 1.0, "failed")], [PPL, OK])
    assert len(front) == 0 and front.knee() is None and front.best("ppl") is None
    assert (front.hypervolume(Box.of({"ppl": [1, 10], "ok": [1, 0]}, [PPL, OK])) == 0.0
            and front.stability == [])
    assert not front.attains({"ppl": 100.0}) and len(front.crowding) == 0
    front.to_csv(tmp_path / "front.csv")
    assert (tmp_path / "front.csv").read_text().split("\n")[0] == '"trial","ppl","ok"'


def test_hypervolume_is_a_share_of_a_box_that_stays():
    box = Box.of({"ppl": [20.0, 40.0], "ok": [1.0, 0.0]}, [PPL, OK])
    rows = [row(0, 20.0, 0.5), row(1, 30.0, 0.75)]
    front = Front.from_rows(rows, [PPL, OK])
    assert front.hypervolume(box) == pytest.approx(0.5 + 0.5 * 0.25)
    assert front.contributions(box).tolist() == pytest.approx([0.25, 0.125])
    more = Front.from_rows([*rows, row(2, 90.0, 1.0), row(3, 45.0, 0.9)], [PPL, OK])
    assert len(more) == 4 and more.hypervolume(box) == front.hypervolume(box), (
        "beyond the worst corner nothing counts")


def test_attainment_is_the_share_of_fronts_that_reach_a_goal():
    good, bad = (Front.from_rows([row(0, ppl, 0.5), row(1, ppl + 5, 0.9)], [PPL, OK]) for ppl in (10.0, 20.0))
    assert good.attains({"ppl": 15.0, "ok": 0.9}) and not good.attains({"ppl": 14.9, "ok": 0.9})
    goals = [{"ppl": 9.0}, {"ppl": 12.0, "ok": 0.5}, {"ppl": 25.0, "ok": 0.9}, {"ok": 0.95}]
    assert attainment([good, bad], goals).tolist() == [0.0, 0.5, 1.0, 0.0]
    with pytest.raises(KeyError, match="no objective: ms"):
        good.attains({"ms": 1.0})


def test_knee_is_the_member_farthest_below_the_line_between_the_ends():
    rows = [row(0, 10.0, 0.0), row(1, 11.0, 0.8), row(2, 15.0, 0.9), row(3, 20.0, 1.0)]
    front = Front.from_rows(rows, [PPL, OK])
    points = (front.vectors - front.vectors.min(0)) / np.ptp(front.vectors, axis=0)
    distance = (points.sum(axis=1) - 1) / math.sqrt(2)  # from the line x + y = 1 through the scaled ends
    assert front.knee()["trial"] == trials(front)[int(distance.argmin())] == 1


def test_best_under_a_bound_looks_beyond_the_members():
    rows = [row(0, 10.0, 0.9, size=100),
            row(3, 12.0, 0.7, size=1), row(2, 14.0, 0.8, size=10), row(1, 12.0, 0.8, size=10)]
    front = Front.from_rows(rows, [PPL, OK])
    assert trials(front) == [0]
    assert front.best("ppl")["trial"] == 0
    assert front.best("ppl",
                      [Constraint("size", "<=", 50.0)])["trial"] == 1, "of two at 12, the one not dominated"
    assert front.best("ok", [Constraint("ok", ">=", 0.95)]) is None
    with pytest.raises(KeyError):
        front.best("size")


def test_tables_keep_types_and_put_objectives_first(tmp_path):
    rows = [row(0, 20, 0.9, **{"config.q": {"name": "fixed"}, "config.rank": 4, "note": "a, b"}),
            row(1, 30.5, 0.95, **{"config.q": "none", "config.rank": 8})]
    front = Front.from_rows(rows, [PPL, OK])
    table = front.to_arrow()
    assert table.column_names[:7] == ["trial", "rung", "state", "figures", "ppl", "ok", "config.q"]
    assert (table.schema.field("ppl").type == pa.float64()
            and table.schema.field("config.rank").type == pa.int64())
    front.to_csv(tmp_path / "front.csv")
    back = pd.read_csv(tmp_path / "front.csv")
    assert back["trial"].tolist() == [0, 1] and back["note"].fillna("").tolist() == ["a, b", ""]
    assert json.loads(back["config.q"][0]) == {"name": "fixed"} and back["config.q"][1] == "none"
    assert front.to_pandas()["config.rank"].tolist() == [4, 8]


def test_column_types_come_from_the_dimensions_so_that_they_hold_for_rows_to_come():
    columns = column_types({
        "a": Dimension(choice=["x", "y"]), "b": Dimension(choice=[1, 2]), "c": Dimension(choice=[0, 0.5]),
        "d": Dimension(choice=["x", {"name": "y"}]), "e": Dimension(choice=[[1], [1, 2]]),
        "f": Dimension(choice=[True, False]), "g": Dimension(**{"int": [1, 5]}),
        "h": Dimension(**{"float": [0, 1]}), "i": Dimension(log=[1e-4, 1])})
    assert " ".join(columns.values()) == "string int64 double string string bool int64 double double"
    assert set(columns) == {f"config.{letter}" for letter in "abcdefghi"}
    early = to_table([{"trial": 0, "config.c": 0, "config.d": "x"}], columns)
    late = to_table([{"trial": 0, "config.c": 0.5, "config.d": {"name": "y"}, "config.e": [1, 2]}], columns)
    assert early.schema == late.schema
    assert early["config.d"].to_pylist() == ["x"] and late["config.d"].to_pylist() == ['{"name": "y"}']


def test_summary_is_plain_json():
    front = Front.from_rows([row(0, 20.0, 0.5), row(1, 30.0, 0.75)], [PPL, OK], ())
    box = Box.of({"ppl": (20.0, 40.0), "ok": (1.0, 0.0)}, [PPL, OK])
    summary = json.loads(json.dumps(front.summary(box)))
    assert (summary["hypervolume"] == pytest.approx(0.625)
            and summary["box"] == {"ppl": [20, 40], "ok": [1, 0]})
    assert len(summary["members"]) == 2
    assert summary["objectives"][1] == {"metric": "ok", "direction": "maximize"}
    assert front.summary()["hypervolume"] is None
