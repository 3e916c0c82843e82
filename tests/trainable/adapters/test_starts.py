"""What every start of an adapter owes, and what each paper says of its own."""

from functools import cached_property

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.config import PluginRef
from trainable.adapters.base import Layer, Start, low_rank
from trainable.registry import ADAPTER_STARTS, QUANTIZERS

ROWS, COLUMNS = 24, 16


class World:
    """A weight, inputs and gradients at random, under a quantizer."""

    def __init__(self, seed: int = 0, quantizer: str = "uniform", bits: int = 2, rank: int = 4):
        draw = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(ROWS, COLUMNS, generator=draw)
        mixing = torch.randn(COLUMNS, COLUMNS, generator=draw).triu() + torch.eye(COLUMNS)
        self.inputs = torch.randn(300, COLUMNS, generator=draw) @ mixing
        self.fisher = torch.rand(ROWS, COLUMNS, generator=draw) ** 4
        self.quantizer = QUANTIZERS.build(PluginRef(name=quantizer, **({"bits": bits} if bits else {})))
        self.rank = rank

    @cached_property
    def layer(self) -> Layer:
        moment = (self.inputs.T @ self.inputs / len(self.inputs)).double()
        directions = torch.linalg.svd(self.inputs - self.inputs.mean(0), full_matrices=False)[2][:self.rank]
        return Layer("layer", self.weight, self.quantizer.fake_quantize, self.rank, moment, self.fisher,
                     seen=directions, scaling=4.0)

    @property
    def zero(self) -> Start:
        """LoRA's own start."""
        return Start(self.weight, torch.zeros(ROWS, self.rank), torch.zeros(self.rank, COLUMNS))

    def error(self, start: Start) -> float:
        """Relative error of the weight."""
        return float(start.residual(self.layer).norm() / self.weight.norm())

    def output_error(self, start: Start) -> float:
        """Of the outputs, mean square."""
        return float((self.inputs @ start.residual(self.layer).T).square().mean())


def start_of(world: World, name: str, **params) -> Start:
    return ADAPTER_STARTS.build(PluginRef(name=name, **params)).start(world.layer) or world.zero


@pytest.mark.parametrize("name", list(ADAPTER_STARTS))
class TestEveryStart:
    def test_shapes_and_the_same_numbers_again(self, name):
        found, again = start_of(World(), name), start_of(World(), name)
        assert found.up.shape == (ROWS, 4) and found.down.shape == (4, COLUMNS)
        assert found.master.shape == (ROWS, COLUMNS)
        assert all(torch.isfinite(part).all() and torch.equal(part, other)
                   for part, other in zip(found, again, strict=True))

    def test_what_it_was_given_is_left_as_it_was(self, name):
        world = World()
        before = world.weight.clone()
        start_of(world, name)
        assert torch.equal(world.weight, before)

    @pytest.mark.parametrize("quantizer, bits",
                             [("uniform", 2), ("uniform", 4), ("nf4", 0), ("ternary_twn", 0)])
    def test_no_worse_than_no_correction_in_what_it_minimizes(self, name, quantizer, bits):
        world = World(3, quantizer, bits)
        found = start_of(world, name)
        measure = world.output_error if name == "int2.1" else world.error
        if name != "lq_lora":  # minimizes a weighted error
            assert measure(found) <= measure(world.zero) * (1 + 1e-6)


def test_one_round_of_loftq_is_one_svd_of_the_error():
    world = World()
    found = start_of(world, "loftq", rounds=1)
    error = (world.weight - world.quantizer.fake_quantize(world.weight)).numpy().astype(np.float64)
    u, s, v = np.linalg.svd(error, full_matrices=False)
    assert torch.equal(found.master, world.weight)
    np.testing.assert_allclose((found.up @ found.down).numpy(), (u[:, :4] * s[:4]) @ v[:4], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), bits=st.integers(2, 4), rank=st.integers(1, 8))
def test_more_rounds_of_loftq_are_never_worse(seed, bits, rank):
    world = World(seed, bits=bits, rank=rank)
    errors = [world.error(start_of(world, "loftq", rounds=rounds)) for rounds in (1, 2, 5)]
    assert errors[0] >= errors[1] >= errors[2]
    assert errors[0] <= world.error(world.zero)


def lq_rounds(world: World, count: int) -> list[float]:
    """Errors of LQ-LoRA's rounds, unweighted, computed apart."""
    weight, quantized, errors = world.weight.double().numpy(), np.zeros((ROWS, COLUMNS)), []
    for _ in range(count):
        u, s, v = np.linalg.svd(weight - quantized, full_matrices=False)
        low = (u[:, :world.rank] * s[:world.rank]) @ v[:world.rank]
        left = torch.from_numpy(weight - low).float()
        quantized = world.quantizer.fake_quantize(left).double().numpy()
        errors.append(float(np.linalg.norm(weight - low - quantized)))
    return errors


def test_lq_lora_keeps_the_round_before_the_error_rises():
    for seed in range(6):
        world = World(seed)
        errors = lq_rounds(world, 30)
        last = next((place for place in range(1, 30) if errors[place] >= errors[place - 1]), 30)
        found = start_of(world, "lq_lora", rounds=30, fisher=False)
        assert float(found.residual(world.layer).norm()) == pytest.approx(errors[last - 1], rel=1e-3)


def weighed(seed: int) -> tuple[World, torch.Tensor]:
    """Fisher information of rank 1 that differs much, and its root: then the weighted SVD is exact."""
    draw, world = torch.Generator().manual_seed(seed), World(seed)
    rows, columns = (torch.rand(size, generator=draw).add(0.05) ** 3 for size in (ROWS, COLUMNS))
    world.fisher = rows[:, None] * columns
    return world, world.fisher.sqrt()


def test_a_round_under_fisher_weights_is_the_weighted_svd():
    world, root = weighed(1)
    found = start_of(world, "lq_lora", rounds=1)
    u, s, v = torch.linalg.svd((root * world.weight).double(), full_matrices=False)
    low = ((u[:, :4] * s[:4]) @ v[:4]).float() / root
    torch.testing.assert_close(found.up @ found.down, low, rtol=1e-3, atol=1e-4)


def test_fisher_weights_turn_the_error_to_where_it_does_not_matter():
    ratios = []
    for world, root in map(weighed, range(20)):
        plain, told = (float((root * start_of(world, "lq_lora", rounds=30, fisher=fisher)
                              .residual(world.layer)).norm()) for fisher in (False, True))
        ratios.append(told / plain)
    assert np.median(ratios) < 0.9  # rounding turns one of them round


def test_no_adapter_of_that_rank_repairs_outputs_better_than_int21():
    world = World(2)
    found, rivals = start_of(world, "int2.1"), [start_of(world, "loftq", rounds=1)]
    draw = torch.Generator().manual_seed(0)
    rivals += [Start(found.master, found.up + 0.05 * torch.randn(found.up.shape, generator=draw),
                     found.down + 0.05 * torch.randn(found.down.shape, generator=draw)) for _ in range(20)]
    assert all(world.output_error(found) < world.output_error(rival) for rival in rivals)


def test_int21_stands_inputs_that_span_less_than_the_rank():
    world = World(2)
    world.inputs = world.inputs[:, :1] * torch.ones(COLUMNS)
    found = start_of(world, "int2.1")
    assert found.down.shape == (4, COLUMNS) and world.output_error(found) < 1e-8


def test_pissa_loses_nothing_without_a_quantizer():
    world = World()
    found = start_of(world, "pissa")
    torch.testing.assert_close(found.master + found.up @ found.down, world.weight)
    assert torch.linalg.matrix_rank(found.up @ found.down) == 4
    torch.testing.assert_close(torch.linalg.svdvals(found.master)[:12],
                               torch.linalg.svdvals(world.weight)[4:], rtol=1e-4, atol=1e-4)


def test_a_low_rank_matrix_is_found_again():
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(9, 3, generator=draw), torch.randn(3, 7, generator=draw)
    up, down = low_rank(left @ right, 3)
    torch.testing.assert_close(up @ down, left @ right, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1), rtol=1e-4, atol=1e-4)


def test_eva_gives_the_first_factor_the_directions_as_they_are_and_adds_nothing():
    world = World()
    found = start_of(world, "eva")
    assert not found.up.any() and torch.equal(found.master, world.weight)
    torch.testing.assert_close(found.down / 4.0**0.5, world.layer.seen)
