import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.compat import compute_hypervolume
from search.pareto.box_decomposition import cut_volumes, growth
from search.pareto.geometry import (
    contributions,
    crowding,
    dominators,
    hypervolume,
    hypervolumes,
    layers,
    nondominated,
)


def clouds(most=7, axes=(1, 4)):
    """Small integer grids, so that ties and copies are common."""
    return st.tuples(st.integers(0, most), st.integers(*axes)).flatmap(
        lambda shape: arrays(float, shape, elements=st.integers(0, 5).map(float)))


def by_inclusion_exclusion(points, reference):
    """Volume of a union of boxes, straight from its definition."""
    boxes = [point for point in points if (point < reference).all()]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for chosen in itertools.combinations(boxes, size):
            total += (-1) ** (size + 1) * np.prod(reference - np.max(chosen, axis=0))
    return total


@settings(max_examples=100, deadline=None)
@given(clouds(axes=(1, 6)))
def test_hypervolume_equals_inclusion_exclusion(points):
    reference = np.full(points.shape[1], 4.5)
    assert hypervolume(points, reference) == pytest.approx(by_inclusion_exclusion(points, reference))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 7), st.integers(0, 999))
def test_many_sets_at_once_are_each_by_itself_and_grow_row_by_row(axes, count, seed):
    noise = np.random.default_rng(seed)
    # ties, copies, and rows beyond the reference, which differ from set to set
    sets, reference = np.round(noise.uniform(0, 1.2, (3, count, axes)), 1), np.ones(axes)
    sets[1, 0, 0], sets[2, -1] = np.nan, np.inf
    wanted = [by_inclusion_exclusion(points, reference) for points in sets]
    assert cut_volumes(sets, reference) == pytest.approx(wanted, rel=1e-9, abs=1e-15)
    curve = [by_inclusion_exclusion(sets[0, :size], reference) for size in range(1, count + 1)]
    assert growth(sets[0], reference) == pytest.approx(curve, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("axes", [2, 3, 4, 5])
def test_infinite_rows(axes):
    reference, plain = np.ones(axes), np.full((2, axes), 0.5)
    endless, beyond = plain.copy(), plain.copy()
    endless[1, -1], beyond[1, 0] = -np.inf, np.inf
    assert hypervolume(endless, reference) == np.inf
    assert hypervolume(beyond, reference) == pytest.approx(0.5**axes)
    assert hypervolume(plain, np.full(axes, np.inf)) == np.inf
    assert hypervolume(np.vstack([endless, np.full(axes, 2.0)]), reference) == np.inf
    assert cut_volumes(np.stack([endless, beyond, plain]), reference)[0] == np.inf
    assert cut_volumes(np.stack([endless, beyond, plain]), reference)[1:] == pytest.approx(0.5**axes)


@pytest.mark.parametrize("axes, count", [(4, 60), (5, 30), (6, 20)])
def test_large_fronts_agree_with_optuna(axes, count):
    rows = np.abs(np.random.default_rng(axes).standard_normal((count, axes)))
    front = 1 - 0.9 * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    reference = np.ones(axes)
    volume = compute_hypervolume(front, reference)
    assert hypervolume(front, reference) == pytest.approx(volume, rel=1e-9)
    small = hypervolume(front * 1e-9, reference * 1e-9)
    assert small == pytest.approx(volume * 1e-9**axes, rel=1e-9, abs=0.0), "of any unit"


@pytest.mark.parametrize("axes", [3, 4])
def test_more_sets_than_are_cut_together(monkeypatch, axes):
    monkeypatch.setattr("search.pareto.box_decomposition.TOGETHER", 3)
    sets, reference = np.random.default_rng(0).uniform(size=(7, 5, axes)), np.ones(axes)
    assert hypervolumes(sets, reference) == pytest.approx([hypervolume(one, reference) for one in sets])


@given(clouds(axes=(4, 5)).filter(len))
@settings(max_examples=20, deadline=None)
def test_a_contribution_is_what_is_lost_without_the_row(points):
    reference = np.full(points.shape[1], 4.5)
    whole = hypervolume(points, reference)
    lost = [whole - hypervolume(np.delete(points, row, axis=0), reference) for row in range(len(points))]
    assert contributions(points, reference) == pytest.approx(lost, abs=1e-9)


@pytest.mark.parametrize("axes", [2, 3, 4, 5])
def test_hypervolume_equals_a_count_of_grid_cells(axes):
    rng = np.random.default_rng(axes)
    points, side = rng.integers(0, 6, (25, axes)), 6
    cells = np.stack(np.meshgrid(*[np.arange(side)] * axes, indexing="ij"), -1).reshape(-1, axes)
    dominated = sum((points <= cell).all(axis=1).any() for cell in cells)
    assert hypervolume(points, np.full(axes, side)) == pytest.approx(dominated)


def test_rows_beyond_the_reference_and_copies_add_nothing():
    points, reference = np.array([[1.0, 1.0], [0.0, 5.0], [3.0, 3.0]]), np.array([3.0, 3.0])
    assert hypervolume(points, reference) == 4.0
    assert hypervolume(np.repeat(points, 3, axis=0), reference) == 4.0
    assert hypervolume(np.empty((0, 2)), reference) == 0.0
    assert hypervolume(np.array([[np.inf, 0.0]]), reference) == 0.0


def layers_by_definition(points):
    rank, left, level = np.full(len(points), -1), set(range(len(points))), 0
    while left:
        front = {i for i in left if not any(
            (points[j] <= points[i]).all() and (points[j] < points[i]).any() for j in left)}
        rank[list(front)] = level
        left, level = left - front, level + 1
    return rank


@settings(max_examples=150, deadline=None)
@given(clouds(most=14))
def test_layers_follow_the_definition(points):
    np.testing.assert_array_equal(layers(points), layers_by_definition(points))
    np.testing.assert_array_equal(nondominated(points), layers(points) == 0)


def test_layers_order_infinities_and_refuse_nan():
    rows = np.array([[1.0, np.inf], [1.0, 2.0], [0.0, np.inf]])
    np.testing.assert_array_equal(layers(rows), [1, 0, 0])
    np.testing.assert_array_equal(nondominated(rows), [False, True, True])
    for order in (layers, nondominated):
        with pytest.raises(AssertionError):
            order(np.array([[1.0, np.nan]]))


def test_crowding_by_hand():
    points = np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0], [1.0, 2.0], [2.0, 1.0]])
    # middle rows: (next - previous) / span, added over both axes; the copy of row 1 gets nothing
    np.testing.assert_allclose(crowding(points), [np.inf, 2 / 4 + 3 / 4, np.inf, 0.0, 3 / 4 + 2 / 4])


def test_crowding_of_one_of_none_and_of_a_flat_axis():
    assert crowding(np.empty((0, 2))).shape == (0,)
    np.testing.assert_array_equal(crowding(np.array([[3.0, 3.0]])), [np.inf])
    np.testing.assert_allclose(crowding(np.array([[1.0, 7.0], [2.0, 7.0], [5.0, 7.0]])),
                               [np.inf, 1.0, np.inf])


@given(clouds(axes=(2, 3)).filter(len))
def test_dominators_are_nowhere_worse_and_somewhere_better(points):
    vector = points[-1]
    plain = [all(row <= vector) and list(row) != list(vector) for row in points]
    assert dominators(points, vector).tolist() == plain
    assert not dominators(np.full_like(points, np.nan), vector).any()
