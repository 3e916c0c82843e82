"""Points as numbers and back, with conditions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.contracts.samplers import FINITE, FIXED, RANGES
from search.samplers.encoding import PointEncoder
from spaces.dimensions import Dimension
from spaces.points import active, walk

SPACE = FINITE | RANGES | {"steps": Dimension(choice=[50, 10, 20]), "flag": Dimension(choice=[True, False])}


def legal(points, rows):
    for row in rows:
        point = points.point(row)
        assert all(points.dimensions[path].contains(value) for path, value in point.items())
        assert active(points.dimensions,
                      {**{path: item.values()[0] for path, item in SPACE.items()}, **point}) == point
        again = points.rows([point])[0]
        assert again.tobytes() == row.tobytes(), "a point has one row"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_drawn_and_moved_points_are_legal_and_come_back(seed):
    points, rng = PointEncoder(SPACE), np.random.default_rng(seed)
    rows = points.drawn(20, rng)
    legal(points, rows)
    moved = points.neighbors(rows, 0.1, rng)
    legal(points, moved)
    assert (moved.tobytes() != rows.tobytes())
    fixed = points.fixed(rows, {"q": FIXED, "rank": 8}, rng)
    legal(points, fixed)
    assert all(point["q"] == FIXED and point["rank"] == 8 and "sites" in point and "drop" in point
               for point in map(points.point, fixed))


def test_every_point_of_a_finite_space_and_none_of_another():
    points = PointEncoder(FINITE)
    assert [points.point(row) for row in points.every] == list(walk(points.dimensions))
    assert PointEncoder(SPACE).every is None
    assert PointEncoder({"rank": Dimension(**{"int": [0, 9999]})}).every is None


def test_features_keep_order_where_there_is_one():
    points = PointEncoder(SPACE)
    rows = points.rows([{"q": "none", "rank": 0, "lr": 1e-4, "steps": 50, "flag": True},
                        {"q": FIXED, "sites": ["table"], "rank": 8, "lr": 1e-1, "drop": 0.5, "steps": 10,
                         "flag": False}])
    found = points.features(rows)
    columns = dict(zip(points.dimensions, found.values.T.tolist(), strict=True))
    assert columns["lr"] == pytest.approx([0.0, 1.0]) and columns["rank"] == pytest.approx([0.0, 1.0])
    assert (columns["steps"] == [1.0, 0.0] and columns["drop"] == [0.5, 1.0]
            and columns["sites"] == [-1.0, 0.0])
    named = dict(zip(points.dimensions, found.categorical.tolist(), strict=True))
    assert {path for path, is_code in named.items() if is_code} == {"q", "sites", "flag"}
