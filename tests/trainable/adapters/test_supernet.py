"""What a supernet draws, and that a prefix of its adapter is a smaller adapter, bit for bit."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from spaces.config import MIXED
from trainable.adapters.supernet import Draws, Member, members, mixture, nest, use_rank
from trainable.models.lora import ADAPTER

RANKS = st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True)
WIDTHS = st.lists(st.integers(2, 8), min_size=1, max_size=4, unique=True)


def adapter(rank: int, alpha: float = 6.0, rows: int = 12, columns: int = 10):
    """peft's LoRA layer of a Linear, both factors drawn at random."""
    torch.manual_seed(rank)
    host = nn.ModuleDict({"x": nn.Linear(columns, rows)})
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=["x"]), host)
    with torch.no_grad():
        host["x"].lora_B[ADAPTER].weight.normal_()
    return host["x"]


def factors(layer):
    return [layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]]


@settings(max_examples=30, deadline=None)
@given(ranks=RANKS, seed=st.integers(0, 100))
def test_every_prefix_is_plain_lora_of_that_rank_bit_for_bit(ranks, seed):
    layer, x = adapter(max(ranks)), torch.randn(5, 10, generator=torch.Generator().manual_seed(seed))
    whole = layer(x).detach()
    down, up = (factor.weight.detach().clone() for factor in factors(layer))
    nest([layer])
    assert torch.equal(layer(x), whole)  # the largest rank is what it was
    for rank in ranks:
        plain = adapter(rank)
        with torch.no_grad():
            plain.base_layer.load_state_dict(layer.base_layer.state_dict())
            plain.lora_A[ADAPTER].weight.copy_(down[:rank])
            plain.lora_B[ADAPTER].weight.copy_(up[:, :rank])
        use_rank([layer], rank, 6.0 / rank)
        assert torch.equal(layer(x), plain(x)), rank


@settings(max_examples=20, deadline=None)
@given(ranks=RANKS, data=st.data())
def test_a_step_trains_its_prefix_as_a_smaller_adapter_and_pulls_at_nothing_beyond(ranks, data):
    layer, rank = adapter(max(ranks)), data.draw(st.sampled_from(ranks))
    small, x = adapter(rank), torch.ones(2, 10)
    with torch.no_grad():
        small.base_layer.load_state_dict(layer.base_layer.state_dict())
        small.lora_A[ADAPTER].weight.copy_(layer.lora_A[ADAPTER].weight[:rank])
        small.lora_B[ADAPTER].weight.copy_(layer.lora_B[ADAPTER].weight[:, :rank])
    before = [factor.weight for factor in factors(layer)]
    nest([layer])
    use_rank([layer], rank, 6.0 / rank)
    for one in (layer, small):
        one(x).square().sum().backward()
    for old, factor, alone, dim in zip(before, factors(layer), factors(small), (0, 1), strict=True):
        assert factor.weight is old  # the parameter that an optimizer has
        assert torch.equal(old.grad.narrow(dim, 0, rank), alone.weight.grad)
        assert not old.grad.narrow(dim, rank, old.shape[dim] - rank).any()


@settings(max_examples=50, deadline=None)
@given(ranks=RANKS, bits=WIDTHS, seed=st.integers(0, 1000), turns=st.integers(1, 5))
def test_draws_are_balanced_and_depend_on_seed_and_step_alone(ranks, bits, seed, turns):
    draws = Draws(tuple(ranks), tuple(bits), seed)
    count = turns * draws.round * len(ranks)
    drawn = [draws.at(step) for step in range(count)]
    assert drawn == [Draws(ranks[::-1], bits[::-1], seed).at(step) for step in range(count)]
    assert Counter(drawn) == dict.fromkeys(members(ranks, bits), 2 * turns)
    widths = [member.bits for member in drawn[:draws.round]]
    assert widths == sorted(bits, reverse=True) + sorted(bits)  # a triangular wave


@settings(max_examples=30, deadline=None)
@given(ranks=RANKS, bits=WIDTHS, lean=st.floats(0, 2))
def test_few_bits_are_drawn_more_often_by_as_much_as_was_asked_for(ranks, bits, lean):
    draws = Draws(ranks, bits, 3, lean)
    drawn = [draws.at(step) for step in range(draws.round * len(ranks))]
    assert set(drawn) == set(members(ranks, bits))
    assert len(set(Counter(member.rank for member in drawn if member.bits == bits[0]).values())) == 1
    assert len({member.bits for member in drawn[:draws.covered]}) == len(bits)
    often = Counter(member.bits for member in drawn[:draws.round])
    asked = {width: 2 ** (lean * (max(bits) - width)) for width in bits}
    for width in bits:
        share = asked[width] / sum(asked.values())
        assert abs(often[width] / draws.round - share) <= 2.02 / draws.round, "rounded to steps"


@settings(max_examples=20, deadline=None)
@given(ranks=RANKS, bits=WIDTHS, lean=st.floats(0, 1), widest=st.integers(0, 40))
def test_first_steps_draw_the_largest_rank_and_what_follows_is_balanced_by_itself(ranks, bits, lean, widest):
    plain, draws = Draws(ranks, bits, 4, lean), Draws(ranks, bits, 4, lean, widest=widest)
    drawn = [draws.at(step) for step in range(widest + draws.round * len(ranks))]
    assert [one.bits for one in drawn] == [plain.at(step).bits for step in range(len(drawn))]
    assert {one.rank for one in drawn[:widest]} <= {max(ranks)}
    for width in bits:
        often = Counter(one.rank for one in drawn[widest:] if one.bits == width)
        assert often == dict.fromkeys(ranks, draws.wave.count(width))
        for step in (0, widest, len(drawn)):
            assert draws.before(step, width) == sum(one.bits == width for one in drawn[:step])


@settings(max_examples=20, deadline=None)
@given(ranks=RANKS, bits=WIDTHS, lean=st.floats(0, 1), share=st.floats(0.1, 1))
def test_a_step_that_mixes_draws_each_site_by_itself_and_leaves_the_ranks(ranks, bits, lean, share):
    plain, mixed = Draws(ranks, bits, 5, lean), Draws(ranks, bits, 5, lean, share)
    pairs = [(plain.at(step), mixed.at(step)) for step in range(60)]
    assert [own.rank for own, _ in pairs] == [other.rank for _, other in pairs]
    assert {member for _, member in pairs} <= set(members(ranks, bits, True))
    assert mixed.at(7) == Draws(ranks[::-1], bits[::-1], 5, lean, share).at(7)
    seen = [{(site, mixed.at(step).at(site)) for site in MIXED} for step in range(mixed.covered)]
    whole = {(site, width) for site in MIXED for width in bits}
    assert set().union(*seen) == whole != set().union(*seen[:-1])


def test_mixtures_are_as_many_steps_as_were_asked_for_and_leave_each_width_its_share():
    plain, draws = Draws((2,), (2, 3, 4), 1, 0.7), Draws((2,), (2, 3, 4), 1, 0.7, 0.5)
    count = 100 * draws.round
    drawn = [draws.at(step) for step in range(count)]
    changed = sum(one != plain.at(step) for step, one in enumerate(drawn)) / count
    shares = {width: draws.wave.count(width) / draws.round for width in (2, 3, 4)}
    # a step that mixes draws the wave's own width at both sites with the product of their shares
    again = sum(value ** 3 for value in shares.values())
    assert changed == pytest.approx(0.5 * (1 - again), abs=0.05)
    for site in MIXED:
        often = Counter(one.at(site) for one in drawn)
        assert all(often[width] / count == pytest.approx(share, abs=0.05) for width, share in shares.items())


def test_a_mixture_of_one_width_is_that_width_and_all_are_named_once():
    assert mixture(4, {"attention": 2, "ffn": 2}) == Member(4, 2)
    mixed = mixture(4, {"attention": 2, "ffn": 3})
    assert (mixed.at("attention"), mixed.at("ffn")) == (2, 3) and mixed not in members((4,), (2, 3))
    every = members((4, 2), (3, 2), mixtures=True)
    assert len(every) == len(set(every)) == 2 * 4 and set(members((2, 4), (2, 3))) < set(every)


def test_seeds_draw_other_orders():
    first, second = ([Draws((1, 2, 4, 8), (2, 3), seed).at(step) for step in range(16)] for seed in (0, 1))
    assert first != second and Counter(first) == Counter(second)


@pytest.mark.parametrize("ranks", [(4, 2), (2, 4)])
def test_members_are_named_narrowest_first_whatever_the_order(ranks):
    assert members(ranks, (4, 2)) == [Member(2, 2), Member(4, 2), Member(2, 4), Member(4, 4)]
