"""An adapter in its singular basis: the same function at its full rank, whose prefixes are its best parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_two_ranks

from spaces.config import OptimConfig
from trainable.adapters.base import low_rank
from trainable.adapters.rebase import singular_basis
from trainable.stages.rebasing import of_first_rank
from trainable.training.optimizer import change_moments, configured


def factors(rank, seed, rows=12, columns=10, dtype=torch.float32):
    """a [rank, columns] and b [rows, rank], of rather different sizes."""
    noise = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=noise, dtype=dtype) for shape in ((rank, columns), (rows, rank)))
    return a * 0.3, b * torch.logspace(0, -2, rank, dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(rank=st.integers(1, 10), seed=st.integers(0, 10_000), cut=st.integers(0, 9))
def test_the_product_is_unchanged_and_every_prefix_is_the_best_of_its_rank(rank, seed, cut):
    a, b = factors(rank, seed)
    whole = b @ a
    basis = singular_basis(a, b)
    down, up = basis.down(a), basis.up(b)
    assert (down.shape, up.shape, down.dtype) == (a.shape, b.shape, a.dtype)
    assert float((up @ down - whole).abs().max()) <= 1e-6 * float(whole.abs().max().clamp(min=1))
    left = torch.linalg.svdvals(whole.double())
    for kept in range(1, rank + 1):
        off = float((whole - up[:, :kept] @ down[:kept]).norm())
        assert off == pytest.approx(float(left[kept:].norm()), rel=1e-4, abs=1e-5 * float(left[0]))
    best = low_rank(whole, min(cut + 1, rank))
    assert torch.allclose(up[:, :cut + 1] @ down[:cut + 1], best[0] @ best[1], atol=1e-4 * float(left[0]))
    assert torch.allclose(down.norm(dim=1), up.norm(dim=0), rtol=1e-3, atol=1e-5)  # shared evenly


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(2, 8), seed=st.integers(0, 10_000))
def test_turning_again_turns_nothing(rank, seed):
    a, b = factors(rank, seed, dtype=torch.float64)
    first = singular_basis(a, b)
    again = singular_basis(first.down(a), first.up(b))
    assert torch.allclose(again.into, torch.eye(rank, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(again.into @ again.back, torch.eye(rank, dtype=torch.float64), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_gradients_in_the_new_coordinates_are_those_that_autograd_finds_there(rank, seed):
    a, b = factors(rank, seed, dtype=torch.float64)
    target = torch.randn(12, 10, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)

    def slopes(a, b):
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        return torch.autograd.grad((b @ a - target).square().sum(), (a, b))
    basis = singular_basis(a, b)
    (old_a, old_b), new = slopes(a, b), slopes(basis.down(a), basis.up(b))
    assert torch.allclose(basis.down_slope(old_a), new[0], rtol=1e-6, atol=1e-9)
    assert torch.allclose(basis.up_slope(old_b), new[1], rtol=1e-6, atol=1e-9)
    for square in (basis.down_slope(old_a.square(), 2), basis.up_slope(old_b.square(), 2)):
        assert bool((square >= 0).all())


@pytest.mark.parametrize("learned", [0, 1, 3])
def test_directions_that_the_product_does_not_have_can_still_be_learned(learned):
    a, b = factors(5, 1)
    b[:, learned:] = 0.0  # columns that no step has drawn
    basis = singular_basis(a, b)
    if not learned:
        assert basis is None  # nothing to turn
        return
    down, up = basis.down(a), basis.up(b)
    assert torch.allclose(up @ down, b @ a, atol=1e-6) and float(up[:, learned:].abs().max()) < 1e-6
    assert torch.allclose(down[learned:].norm(dim=1), a.norm(dim=1).mean(), rtol=1e-5)
    assert int(torch.linalg.matrix_rank(down)) == 5


def test_rows_that_depend_on_each_other_are_left_as_they_are():
    a, b = factors(4, 2)
    a[3] = a[0] + a[1]
    assert singular_basis(a, b) is None


@pytest.mark.parametrize("states", ["float32", "int8"])
def test_moments_are_changed_in_place_however_they_are_held(states):
    noise = torch.Generator().manual_seed(0)
    value = torch.nn.Parameter(torch.randn(8, 64, generator=noise))
    other = torch.nn.Parameter(torch.randn(8, 64, generator=noise))
    optimizer = configured([("value", value), ("other", other)], OptimConfig(states=states, lr=0.1))
    change_moments(optimizer, value, lambda moment, power: moment * float("nan"))  # has none yet
    held = []
    for _ in range(2):
        value.grad = other.grad = torch.ones_like(value)
        optimizer.step()
    change_moments(optimizer, value, lambda moment, power: held.append(moment.clone()) or moment * 3**power)
    change_moments(optimizer, value, lambda moment, power: held.append(moment.clone()) or moment)
    change_moments(optimizer, other, lambda moment, power: held.append(moment.clone()) or moment)
    first, second, tripled, ninefold, *untouched = held
    assert first.shape == value.shape and first.mean() == pytest.approx(0.19, rel=0.02)
    assert torch.allclose(tripled, 3 * first, rtol=0.02) and torch.allclose(ninefold, 9 * second, rtol=0.02)
    assert torch.equal(untouched[0], first) and torch.equal(untouched[1], second)
    before = value.detach().clone()
    optimizer.step()  # m / sqrt(v) has not changed but for the new gradient's part
    assert bool(((before - value).abs() > 0).all())


def agree(rank):
    a, b = factors(3, rank)
    mine, first = singular_basis(a, b), singular_basis(*factors(3, 0))
    assert all(torch.equal(*pair) for pair in zip(of_first_rank(mine, a), first, strict=True))
    assert of_first_rank(None if rank == 0 else mine, a) is None


def test_all_ranks_turn_by_the_basis_of_the_first():
    run_two_ranks(agree)
