"""The models that one run for every rank and bit-width trains.

There is a plain model of a trial for each bit-width, at the largest rank: its body quantized at that width
and frozen, an adapter of its own on it, and what is outside the body. A step trains a prefix of one of them.
A member is the same plain model with the prefix as its adapter, so what follows (export, measuring)
is as for any trial. A mixture of widths has no weights of its own: it computes with the layers of one model
at one site and of another at the next (`Mixed`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from spaces.config import MIXED, TrialConfig
from spaces.errors import UserError
from trainable.adapters.supernet import Member, nest, use_rank
from trainable.artifacts.artifact import Loaded
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.process import Process
from trainable.models.backbone import Backbone
from trainable.models.checkpointing import checkpoint_blocks
from trainable.models.lora import LEARNED
from trainable.registry import PROCESSES
from trainable.stages.adapted import adapted_model
from trainable.stages.adapting import adapted_layers, start_adapters
from trainable.stages.members import as_member, check_bits, check_ranks, scale_of


def mixed_places(model: Backbone) -> dict[str, str]:
    """The site of each layer that a mixture of bit-widths chooses by itself, adapter included, by name."""
    sites = model.sites()
    return {name.removesuffix(".base_layer"): site for site in MIXED for name in sites.get(site, ())}


def site_of(name: str, places: Mapping[str, str]) -> str | None:
    """The site of the layer that a tensor belongs to; None where it belongs to none of `places`."""
    while name and name not in places:
        name = name.rpartition(".")[0]
    return places.get(name)


class Mixed:
    """A model whose layers are, site by site, those of the models of several bit-widths; the rest is what
    these have in common. No module: nothing in it is its own."""

    def __init__(self, models: Mapping[int, Backbone]):
        first = models[min(models)]
        self.places = mixed_places(first)
        self.model: Backbone = _above(first, "", set(self.places), {})
        self.models, self.layers = models, {
            bits: {site: [layer.module for layer in adapted_layers(model)
                          if site_of(layer.name, self.places) == site] for site in MIXED}
            for bits, model in models.items()}

    def take(self, member: Member, scale: float) -> None:
        """Compute as this member from now on."""
        for name, site in self.places.items():
            parent, _, child = name.rpartition(".")
            layer = self.models[member.at(site)].get_submodule(name)
            self.model.get_submodule(parent)._modules[child] = layer
        for site in MIXED:
            use_rank(self.layers[member.at(site)][site], member.rank, scale)


def _above(module: Any, name: str, below: set[str], known: dict[int, nn.Module]) -> Any:
    """A copy of a module whose children lead to the modules named `below`; what does not lead there is the
    module's own."""
    if id(module) in known:
        return known[id(module)]
    if name in below or not any(each.startswith(f"{name}." if name else "") for each in below):
        return module
    found = known[id(module)] = copy.copy(module)
    found._modules = {child: _above(value, f"{name}.{child}" if name else child, below, known)
                      for child, value in module._modules.items()}
    return found


class Supernet(nn.Module):
    """Models of a trial at the largest rank, by bit-width; `draw` says which one computes, at which rank, or
    what mixture of them."""

    def __init__(self, models: dict[int, Backbone], config: TrialConfig):
        super().__init__()
        self.models = nn.ModuleDict({str(bits): model for bits, model in models.items()})
        self.config, self.bits, self.largest = config, min(models), max(config.adapt.ranks)
        self.layers = {bits: [layer.module for layer in adapted_layers(model)]
                       for bits, model in models.items()}
        for layers in self.layers.values():
            nest(layers)
        self.mixed = Mixed(models) if config.adapt.mixtures else None
        self._mixes = False
        if config.adapt.checkpointing:
            for model in (*models.values(), *([self.mixed.model] if self.mixed else [])):
                checkpoint_blocks(model)

    def draw(self, member: Member) -> None:
        """Compute as this member from now on."""
        scale = scale_of(self.config, member.rank)
        self.bits, self._mixes = member.bits, bool(member.others)
        if self._mixes:
            assert self.mixed is not None, "members of one bit-width alone"
            self.mixed.take(member, scale)
        else:
            use_rank(self.layers[member.bits], member.rank, scale)

    @property
    def adapters(self) -> list[Any]:
        """peft's layers of all bit-widths."""
        return [layer for layers in self.layers.values() for layer in layers]

    @property
    def model(self) -> Any:
        """The model that computes."""
        return self.mixed.model if self._mixes and self.mixed else self.models[str(self.bits)]

    def train(self, mode: bool = True) -> Self:
        """Of all models."""
        if self.mixed is not None:
            self.mixed.model.train(mode)
        return super().train(mode)

    def state(self, bits: int) -> dict[str, Tensor]:
        """The plain model of a bit-width at the largest rank, by the names that it has without a supernet."""
        return self.models[str(bits)].state_dict()


class MemberLoss:
    """The loss of the member that was drawn."""

    def __init__(self, process: Process):
        self.process = process

    def loss(self, model: Supernet, ids: Tensor, generator: torch.Generator,
             condition: Tensor | None = None) -> dict[str, Tensor]:
        """The process's own, of the model that computes."""
        return self.process.loss(model.model, ids, generator, condition)


def build(config: TrialConfig, base: Loaded, corpus: TokenizedCorpus, device: torch.device) -> Supernet:
    """The supernet before it trains: each bit-width begins as its own run at the largest rank would. Frozen
    weights that the widths have in common are held once. Raises `UserError` for bits that the family
    does not have and for a rank that a layer does not have."""
    check_bits(config)
    check_ranks(config)
    process, largest = PROCESSES.build(config.diffusion), max(config.adapt.ranks)
    models: dict[int, Backbone] = {}
    for bits in sorted(config.adapt.bits):
        own = as_member(config, Member(largest, bits))
        model, _ = adapted_model(own, base)
        model.to(device)
        if own.lora.start.name != "zero":
            start_adapters(model, base.model.to(device), process, corpus, own)
        models[bits] = model
    if config.adapt.mixtures:
        _check_mixed(models[min(models)])
    _share(list(models.values()), config.adapt.shared, config.adapt.mixtures > 0)
    return Supernet(models, config)


def _check_mixed(model: Backbone) -> None:
    """Raises `UserError`, one line, for an adapter on a layer whose bits no site of a mixture says."""
    places = mixed_places(model)
    for layer in adapted_layers(model):
        if site_of(layer.name, places) is None:
            raise UserError(f"adapt.mixtures: {layer.name} has an adapter and is part of neither "
                            f"{' nor '.join(MIXED)}; legal: lora.targets without it, or mixtures: 0")


@torch.no_grad()
def _share(models: list[Backbone], rest: bool, mixtures: bool = False) -> None:
    """Hold once what is frozen and equal in all models and, with `rest`, what trains outside of the body; for
    `mixtures` what quantizers learn there, too."""
    first, places = dict(models[0].named_parameters()), mixed_places(models[0]) if mixtures else {}
    for model in models[1:]:
        twins = {id(value): first[name] for name, value in model.named_parameters()
                 if "lora_" not in name and (rest or not value.requires_grad)
                 and (LEARNED not in name or mixtures and site_of(name, places) is None)
                 and torch.equal(value, first[name])}
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                if id(value) in twins:
                    module.register_parameter(name, twins[id(value)])


