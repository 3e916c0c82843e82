"""LQ-LoRA's integer program: bits and groups of each matrix under a budget, against trying them all."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.adapters.base import Layer
from trainable.quantizers.base import shape_of
from trainable.registry import ADAPTER_STARTS, QUANTIZERS

BITS, GROUPS = (2, 3, 4), (8, 16)
SHAPES = ((8, 16), (16, 12), (24, 8))


def layers(seed=0, name="uniform", **params):
    """Weights of different spread and weight in the loss."""
    draw = torch.Generator().manual_seed(seed)
    quantizer = QUANTIZERS.build(PluginRef(name=name, **params))
    return [Layer(f"layer{place}", torch.randn(shape, generator=draw) * (place + 1),
                  quantizer.fake_quantize, 2, fisher=torch.rand(shape, generator=draw) ** 2 * 4.0**-place,
                  quantizer=quantizer)
            for place, shape in enumerate(SHAPES)]


def start(budget, **params):
    return ADAPTER_STARTS.build(PluginRef(name="lq_lora", budget=budget, **{"bits": BITS, "groups": GROUPS,
                                                                              **params}))


def packed_bytes(layer, quantizer) -> int:
    return sum(array.numel() * array.element_size() for array in quantizer.encode(layer.weight).values())


def loss(rule, layer, quantizer) -> float:
    """Fisher-weighted error of the quantizer on what the best weighted low-rank part leaves, apart."""
    fisher = layer.fisher.double() if rule.params.fisher else torch.ones(layer.weight.shape).double()
    scaled = fisher / fisher.mean()
    rows, columns = scaled.mean(1).clamp_min(1e-4).sqrt()[:, None], scaled.mean(0).clamp_min(1e-4).sqrt()
    u, s, v = torch.linalg.svd(rows * layer.weight.double() * columns, full_matrices=False)
    low = (u[:, :layer.rank] * s[:layer.rank]) @ v[:layer.rank] / rows / columns
    left = (layer.weight.double() - low).float()
    return float((fisher * (left - quantizer.fake_quantize(left)).double().square()).sum())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), budget=st.floats(3.0, 7.0), fisher=st.booleans())
def test_the_assignment_is_the_best_that_fits_and_never_above_the_budget(seed, budget, fisher):
    given_, rule = layers(seed), start(budget, fisher=fisher)
    found = rule.quantizers(given_)
    most = budget * sum(layer.weight.numel() for layer in given_) / 8
    assert sum(packed_bytes(layer, found[layer.name]) for layer in given_) <= most
    options = [QUANTIZERS.build(PluginRef(name="uniform", bits=bits, granularity="group", group=group))
               for bits in BITS for group in GROUPS]
    lost = [[loss(rule, layer, each) for each in options] for layer in given_]
    stored = [[each.stored_bytes(shape_of(layer.weight)) for each in options] for layer in given_]
    best = min(sum(lost[i][j] for i, j in enumerate(picked))
               for picked in itertools.product(range(len(options)), repeat=len(given_))
               if sum(stored[i][j] for i, j in enumerate(picked)) <= most)
    assert sum(loss(rule, layer, found[layer.name]) for layer in given_) == pytest.approx(best, rel=1e-3)


def test_bits_go_where_gradients_are():
    one, other = layers()[:2]
    there, here = [start(4.0).quantizers([Layer(**{**vars(each), "fisher": each.fisher * weight})
                                          for each, weight in ((one, a), (other, b))])
                   for a, b in ((1e6, 1e-6), (1e-6, 1e6))]
    sizes = [{each.name: found[each.name].bits_per_value(shape_of(each.weight)) for each in (one, other)}
             for found in (there, here)]
    assert sizes[0][one.name] > sizes[0][other.name] and sizes[1][one.name] < sizes[1][other.name]


def test_a_family_with_bits_of_its_own_is_given_groups_alone_and_other_params_stay():
    found = start(4.6, groups=(16, 32, 64)).quantizers(layers(name="nf4", scale_bits=8))
    assert {each.params.scale_bits for each in found.values()} == {8} and len(found) == 3
    assert start(None).quantizers(layers()) == {}


@pytest.mark.parametrize(("budget", "name", "params", "message"), [
    (2.9, "uniform", {},
     r"2.9 bits a value is 185 bytes, the smallest assignment takes 192; legal: at least 3$"),
    (4.0, "binary", {}, r"quantizer binary has none; legal: uniform, float, nf4, "),
    (4.0, "uniform", {"bits": (9,)}, r"quantizer 'uniform', parameter 'bits'"),
])
def test_what_cannot_be_assigned_is_one_line(budget, name, params, message):
    with pytest.raises(UserError, match=message) as error:
        start(budget, **params).quantizers(layers(name=name))
    assert "\n" not in str(error.value)
