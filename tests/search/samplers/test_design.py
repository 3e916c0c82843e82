"""The points that a search begins with."""

import numpy as np
import pytest

from search.contracts.samplers import FINITE, RANGES
from search.samplers.design import BLOCK, middle, spread_point
from search.samplers.encoding import PointEncoder
from search.study.searcher import StudySearcher
from spaces.dimensions import Dimension
from spaces.objectives import Objective

SPACE = FINITE | RANGES | {"steps": Dimension(choice=[50, 10, 20]), "flag": Dimension(choice=[True, False])}
OBJECTIVES = [Objective("loss", "minimize"), Objective("ok", "maximize")]


def block(seed, points=None):
    points = points or PointEncoder(SPACE)
    return [points.point(spread_point(points, seed, place)) for place in range(BLOCK)]


def test_a_block_has_every_value_about_equally_often_and_every_part_of_a_range_once():
    for seed in range(3):
        found = block(seed)
        for path in ("q", "steps", "flag"):
            values = SPACE[path].values()
            counts = [sum(point[path] == value for point in found) for value in values]
            assert sum(counts) == BLOCK and max(counts) - min(counts) <= 2, (path, counts)
        parts = sorted(int((np.log10(point["lr"]) + 4) / 3 * BLOCK) for point in found)
        assert parts == list(range(BLOCK))
        for point in found:
            assert ("sites" in point) == (point["q"] != "none") and ("drop" in point) == (point["rank"] >= 4)


def test_points_depend_on_seed_and_place_alone_and_lie_apart():
    space = {f"x{axis}": Dimension(**{"float": [0.0, 1.0]}) for axis in range(4)}
    points = PointEncoder(space)

    def nearest(rows):
        gaps = np.linalg.norm(rows[:, None] - rows[None], axis=2)
        return gaps[np.triu_indices(len(rows), 1)].min()

    found = [np.array([spread_point(points, seed, place) for place in range(BLOCK)]) for seed in (0, 1)]
    assert (found[0][3] == spread_point(points, 0, 3)).all() and (found[0] != found[1]).all()
    drawn = [nearest(points.drawn(BLOCK, np.random.default_rng(seed))) for seed in range(200)]
    assert all(nearest(rows) > np.quantile(drawn, 0.95) for rows in found)
    assert (spread_point(points, 0, BLOCK) != found[0][0]).all(), "another block"


def test_the_middle_comes_first_unless_it_was_tried():
    points = PointEncoder(SPACE)
    point = points.point(middle(points, 0))
    assert point["rank"] == 4 and point["lr"] == pytest.approx(10**-2.5) and point["drop"] == 0.25
    assert point["steps"] == 20 and {points.point(middle(points, seed))["flag"]
                                     for seed in range(8)} == {True, False}
    searcher = StudySearcher(SPACE, OBJECTIVES, sampler="ehvi", seed=3)
    searcher.enqueue(points.point(middle(points, 5)))
    assert [searcher.ask().values for _ in range(2)][1] == points.point(middle(points, 3))
    again = StudySearcher(SPACE, OBJECTIVES, sampler="ehvi", seed=5)
    again.enqueue(points.point(middle(points, 5)))
    asked = [again.ask().values for _ in range(3)]
    assert asked[1:] == [points.point(spread_point(points, 5, place)) for place in (1, 2)]


def test_what_is_fixed_stays():
    searcher = StudySearcher(SPACE, OBJECTIVES, sampler="ehvi", seed=0)
    searcher.enqueue({"q": "none", "flag": True})
    values = searcher.ask().values
    assert values["q"] == "none" and values["flag"] is True and "sites" not in values and "lr" in values


@pytest.mark.parametrize("seed", range(4))
def test_in_a_small_space_no_first_point_comes_twice(seed):
    small = {"steps": Dimension(choice=[10, 20, 50]), "flag": Dimension(choice=[True, False])}
    searcher = StudySearcher(small, OBJECTIVES, sampler="ehvi", seed=seed)
    asked = [searcher.ask() for _ in range(4)]
    assert [one.number for one in asked] == [0, 1, 2, 3], "none was thrown away"
    assert len({str(one.values) for one in asked}) == 4
