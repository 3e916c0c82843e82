"""Spaces of supernets: one line for what cannot be a member, before anything runs."""

from __future__ import annotations

import pytest

from search.run.finish import reseeded
from search.run.prepare import settings
from search.run.validation import check
from spaces.errors import UserError
from spaces.schema import Space

SPACE = """
objectives: {{nll_bound: minimize}}
sampler: {sampler}
budget: {{trials: 4}}
trial:
  model: {{name: masked_lm, hidden: 16, ffn: 32, heads: 2, layers: 1}}
  diffusion: {{name: masked}}
  quantization: {{sites: [{sites}]}}
  adapt: {{{adapt}}}
  evaluation: {{control_tasks: []}}
search:
  lora.rank: {{choice: [{ranks}]}}
  quantization.quantizer: {{choice: [{quantizers}]}}
{more}
"""
ADAPT = "mode: supernet, ranks: [2, 4], bits: [2, 4]"
MIXTURES = f"{ADAPT}, shared: true, mixtures: 0.5"
FFN = "  quantization.per_site.ffn: {choice: ['uniform:2', 'uniform:4']}"


def space(**changes: str) -> Space:
    told = {"adapt": ADAPT, "ranks": "2, 4", "quantizers": "'uniform:2', 'uniform:4'", "more": "",
            "sampler": "grid", "sites": "attention, ffn", **changes}
    return Space.from_yaml(SPACE.format(**told), "a.yaml")


def test_a_space_of_all_members_is_legal():
    check(space())
    check(space(more="  sampling.temperature: {choice: [0.5, 1.0]}"))
    check(space(quantizers="{name: uniform, bits: 2}, {name: uniform, bits: 4}"))
    check(space(adapt=MIXTURES, more=FFN))


@pytest.mark.parametrize(("changes", "message"), [
    ({"adapt": "mode: supernet, bits: [2, 4]"}, "ranks is empty: a supernet has one or more"),
    ({"adapt": "mode: supernet, ranks: [2, 4], bits: []"}, "bits is empty"),
    ({"adapt": "mode: supernet, ranks: [2, 4, 2], bits: [2, 4]"}, "ranks has 2 more than once"),
    ({"adapt": "mode: supernet, ranks: [2, 4], bits: [2, 4, 4]"}, "bits has 4 more than once"),
    ({"adapt": "ranks: [2, 4]"}, "ranks are a supernet's; legal: mode: supernet"),
    ({"adapt": ADAPT + ", train: false"}, "a supernet trains, and train is false"),
    ({"adapt": ADAPT + ", hold: codes"}, "bodies are held as floats; legal: hold: floats"),
    ({"adapt": ADAPT + ", body: trainable"}, "body is shared by its members; legal: body: frozen"),
    ({"adapt": "mode: supernet, ranks: [0, 2, 4], bits: [2, 4]"}, "greater than or equal to 1"),
    ({"adapt": "mode: supernets"}, "'own' or 'supernet'"),
    ({"ranks": "2, 8"}, "reaches lora.rank=8.*: lora.rank=8 is not among the supernet's; legal: 2, 4"),
    ({"ranks": "0, 2"}, "lora.rank=0 is not among the supernet's"),
    ({"quantizers": "'uniform:2', 'uniform:3'"}, "quantization.quantizer.bits=3 is not among the supernet's"),
    ({"quantizers": "nf4"}, "adapt.bits: quantizer nf4 has no bits; legal: "),
    ({"adapt": "mode: supernet, ranks: [2, 4], bits: [2, 4, 9]"}, "adapt.bits: 9: quantizer 'uniform'"),
    ({"adapt": "mode: supernet, ranks: [2, 4, 17], bits: [2, 4]"},
     "adapt.ranks: 17 is above the smaller dimension of body.*; legal: at most 16"),
    ({"more": "  lora.intervals: {choice: [1, 2]}"},
     "lora.intervals=2: a supernet's adapters are for all noise levels; legal: lora.intervals: 1"),
    ({"adapt": ADAPT + ", mixtures: 0.5"}, "outside the body has none of its own; legal: shared: true"),
    ({"adapt": ADAPT + ", scale: rank"}, "each rank another scale; legal: scale: largest, or rebase: 0"),
    ({"adapt": "mixtures: 0.5"}, "mixtures are a supernet's; legal: mode: supernet, or mixtures: 0"),
    ({"adapt": MIXTURES, "more": "  quantization.per_site.ffn: {choice: ['uniform:2', 'nf4']}"},
     "adapt.mixtures: ffn has quantizer nf4, and a mixture's sites are of quantization.quantizer"),
    ({"adapt": MIXTURES, "more": "  quantization.per_site.ffn: {choice: ['uniform:2', 'uniform:3']}"},
     "quantization.per_site.ffn.bits=3 is not among the supernet's; legal: 2, 4"),
    ({"adapt": MIXTURES, "sites": "attention, ffn, embedding"},
     "embedding would follow one of them; legal: a quantizer of its own"),
    ({"more": "  adapt.optim.lr: {log: [1e-4, 1e-2]}", "sampler": "random"},
     "adapt.optim.lr.log: changes the supernet, which is trained once per value"),
])
def test_what_is_no_supernet_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        check(space(**changes))
    assert "\n" not in str(error.value) and str(error.value).startswith("a.yaml")


@pytest.mark.parametrize(("changes", "count"), [({}, 4), ({"adapt": MIXTURES, "more": FFN}, 8)])
def test_all_members_ask_for_one_supernet_and_are_trained_apart_at_the_end(changes, count):
    whole = space(**changes)
    configs = [whole.config(point) for point in whole.enumerate()]
    assert len(configs) == count and len({settings(config)["supernet"] for config in configs}) == 1
    for config in configs:
        apart = reseeded(config, 0)
        assert apart.adapt.mode == "own" and not apart.adapt.ranks and "supernet" not in settings(apart)
        assert (apart.lora, apart.quantization, apart.adapt.optim) == (config.lora, config.quantization,
                                                                       config.adapt.optim)
        assert apart.model_validate(apart.model_dump(mode="json")) == apart
