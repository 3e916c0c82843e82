"""What holds for every backbone of the registry, under every process that it can be trained under."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spaces.config import SITES, LoraConfig, PluginRef
from trainable.models.backbone import Backbone
from trainable.models.lora import add_lora
from trainable.models.parts import plain_name
from trainable.registry import BACKBONES, PROCESSES

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(20))]
TINY = {"hidden": 16, "layers": 2, "heads": 2, "ffn": 24, "positions": 16, "dropout": 0.0,
        "embedding_dim": 8, "time_dim": 8}


def pairs() -> list[tuple[str, str]]:
    """(backbone, process) that go together, by the backbone's own rules."""
    found = []
    for name in BACKBONES:
        rules = [rule for rule in BACKBONES.get(name).Params.rules if rule.setting == "diffusion.name"]
        found += [(name, process)
                  for process in PROCESSES if all(rule.holds(process, tiny(name)) for rule in rules)]
    return found


def tiny(name: str):
    """Parameters of a small model: those of `TINY` that the backbone has."""
    fields = BACKBONES.get(name).Params.model_fields
    return BACKBONES.params(PluginRef(name=name,
                                      **{key: value for key, value in TINY.items() if key in fields}))


def make(name: str, process: str, seed: int = 3) -> tuple[Backbone, object]:
    found = PROCESSES.build(PluginRef(name=process))
    return BACKBONES.get(name).from_config(tiny(name), found.params, WORDS, seed=seed).eval(), found


@pytest.mark.parametrize(("name", "process"), pairs())
class TestEveryBackbone:
    def test_is_what_it_says(self, name, process):
        model, _ = make(name, process)
        assert isinstance(model, Backbone) and type(model).name == name and type(model).__doc__
        assert model.params == tiny(name) and model.symbols == {}

    def test_is_drawn_from_its_seed_alone(self, name, process):
        torch.manual_seed(1)
        first, state = make(name, process)[0].state_dict(), torch.get_rng_state()
        torch.manual_seed(2)
        second, other = make(name, process)[0].state_dict(), make(name, process, seed=4)[0].state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)
        assert not torch.equal(state, torch.get_rng_state())

    def test_takes_weights_that_are_assigned_on_the_meta_device(self, name, process):
        model, found = make(name, process)
        with torch.device("meta"):
            blank = BACKBONES.get(name).from_config(tiny(name), found.params, WORDS, pretrained=False)
        assert all(value.is_meta for value in blank.parameters())
        blank.load_state_dict(model.state_dict(), assign=True)
        ids, t = torch.randint(4, len(WORDS), (2, 6)), torch.tensor([0, found.levels - 1])
        state = found.corrupt(model, ids, t, torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(model.predict(state, t).log_probs, blank.eval().predict(state, t).log_probs)

    def test_believes_a_distribution_over_words(self, name, process):
        model, found = make(name, process)
        ids, t = torch.randint(4, len(WORDS), (3, 7)), torch.full((3,), found.levels // 2)
        with torch.no_grad():
            said = model.predict(found.corrupt(model, ids, t, torch.Generator().manual_seed(0)), t)
        assert said.log_probs.shape[:2] == (3, 7) and said.log_probs.shape[2] >= len(WORDS)
        torch.testing.assert_close(said.log_probs.exp().sum(-1), torch.ones(3, 7), rtol=1e-4, atol=1e-4)

    def test_sites_are_weights_and_no_weight_plays_two(self, name, process):
        model, _ = make(name, process)
        sites = model.sites()
        assert set(sites) <= set(SITES) and sites["embedding"]
        names = [module for modules in sites.values() for module in modules]
        assert len(names) == len(set(names))
        assert all(model.get_submodule(module).weight.dim() == 2 for module in names)
        inside = {f"body.{module}"
                  for module, part in model.body.named_modules() if isinstance(part, nn.Linear)}
        assert inside == {*sites.get("attention", ()), *sites.get("ffn", ())}

    def test_an_adapter_sits_where_it_is_asked_to_and_changes_no_site(self, name, process):
        model, _ = make(name, process)
        before = {site: [plain_name(module) for module in modules] for site, modules in model.sites().items()}
        for role in model.lora_targets():
            changed, _ = make(name, process)
            assert add_lora(changed, LoraConfig(rank=2, targets=(role,))) > 0
        add_lora(model, LoraConfig(rank=2, targets=tuple(model.lora_targets())))
        after = model.sites()
        assert {site: [plain_name(module) for module in modules] for site, modules in after.items()} == before
        wrapped = [module for modules in after.values()
                   for module in modules if module.endswith("base_layer")]
        assert (wrapped
                and not [module for modules in after.values() for module in modules if "lora_" in module])

    def test_parameters_by_word_have_a_row_for_each(self, name, process):
        model, _ = make(name, process)
        values = dict(model.named_parameters())
        assert model.token_parameters()
        for key in model.token_parameters():
            assert key not in values or len(values[key]) >= len(WORDS)
        assert any(key in values for key in model.token_parameters())
