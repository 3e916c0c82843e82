"""What runs beyond a weight, read from entries and arrays that anybody may have written."""

from __future__ import annotations

import copy

import pytest
import torch
from calibration_problems import assert_same_bits

from trainable.quantization.post_training.interval_scales import IntervalScales
from trainable.quantization.post_training.none import NoRounding
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.running import (
    AttentionRounding,
    RoundedLinear,
    Running,
    layout_of,
    restored,
)

SHAPE = (6, 8)
FULL = Running(4, (0.25, 0.5), torch.rand(3, 2), torch.rand(3, 2), IntervalScales(torch.rand(3, 6),
                                                                               torch.rand(3, 8)),
               AttentionRounding(4, 4, 4, torch.rand(4), 8, torch.rand(3, 4)))


def entry(running: Running) -> dict:
    return {"activation_bits": running.bits, "running": running.entry()}


def test_it_comes_back_as_it_was():
    again = restored(entry(FULL), FULL.arrays(), SHAPE)
    assert again.boundaries == FULL.boundaries and again.bits == 4
    assert again.entry() == FULL.entry() and again.by_noise and not again.plain
    for name, value in FULL.arrays().items():
        assert_same_bits(again.arrays()[name], value)
    counts = {name: value.numel() for name, value in FULL.arrays().items()}
    assert layout_of(entry(FULL), SHAPE) == counts


def test_nothing_is_nothing():
    assert Running(8).entry() is None and Running(8).arrays() == {}
    assert layout_of({"activation_bits": 8}, SHAPE) == {}
    assert restored({"activation_bits": 8}, {}, SHAPE) == Running(8) and Running(16).plain


@pytest.mark.parametrize("running", [Running(16, scales=IntervalScales(torch.rand(1, 6), torch.ones(1, 8))),
                                     Running(4)], ids=["scales", "inputs"])
def test_a_model_in_bfloat16_is_computed_in_float32(running):
    weight, bias = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.ones(6)
    layer = RoundedLinear(quantize(NoRounding(NoRounding.Params()), weight), running, bias.bfloat16())
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    assert_same_bits(layer(x), layer(x.float()).bfloat16())


@pytest.mark.parametrize(("path", "value"), [
    ("", 3), ("boundaries", 0.5), ("boundaries", [0.5, 0.25]), ("boundaries", [1]), ("boundaries", [0.0]),
    ("boundaries", [k / 100 for k in range(1, 99)]), ("scales", "rows"), ("attention.heads", 3),
    ("attention.heads", -4), ("attention.heads", "4"), ("attention.features", 5),
    ("attention.features", 10**9), ("attention.value_bits", 1.5), ("attention.softmax_bits", 99),
    ("attention", {}),
], ids=str)
def test_what_cannot_be_is_refused(path, value):
    bad = copy.deepcopy(entry(FULL))
    *groups, last = path.split(".") if path else ["running"]
    target = bad if not path else bad["running"]
    for group in groups:
        target = target[group]
    target[last] = value
    with pytest.raises((ValueError, KeyError, TypeError)):
        restored(bad, FULL.arrays(), SHAPE)


@pytest.mark.parametrize("name", list(FULL.arrays()))
def test_arrays_of_another_size_or_type_are_refused(name):
    for value in (torch.rand(5), FULL.arrays()[name].double()):
        with pytest.raises(ValueError, match=name):
            restored(entry(FULL), {**FULL.arrays(), name: value}, SHAPE)
