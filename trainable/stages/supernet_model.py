"""The models that one run for every rank and bit-width trains.

There is a plain model of a trial for each bit-width, at the largest rank: its body quantized at that width
and frozen, an adapter of its own on it, and what is outside the body. A step trains a prefix of one of them.
A member is the same plain model with the prefix as its adapter, so what follows (export, measuring)
is as for any trial.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spaces.config import TrialConfig
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


class Supernet(nn.Module):
    """Models of a trial at the largest rank, by bit-width; `draw` says which one computes, at which rank."""

    def __init__(self, models: dict[int, Backbone], config: TrialConfig):
        super().__init__()
        self.models = nn.ModuleDict({str(bits): model for bits, model in models.items()})
        self.config, self.bits, self.largest = config, min(models), max(config.adapt.ranks)
        self.layers = {bits: [layer.module for layer in adapted_layers(model)]
                       for bits, model in models.items()}
        for layers in self.layers.values():
            nest(layers)

    def draw(self, member: Member) -> None:
        """Compute as this member from now on."""
        self.bits = member.bits
        use_rank(self.layers[member.bits], member.rank, scale_of(self.config, member.rank))

    @property
    def model(self) -> Any:
        """The model that computes."""
        return self.models[str(self.bits)]

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
        if own.adapt.checkpointing:
            checkpoint_blocks(model)
        models[bits] = model
    _share(list(models.values()), config.adapt.shared)
    return Supernet(models, config)


@torch.no_grad()
def _share(models: list[Backbone], rest: bool) -> None:
    """Hold once what is frozen and equal in all models and, with `rest`, what trains outside of the body."""
    first = dict(models[0].named_parameters())
    for model in models[1:]:
        twins = {id(value): first[name] for name, value in model.named_parameters()
                 if "lora_" not in name and LEARNED not in name and (rest or not value.requires_grad)
                 and torch.equal(value, first[name])}
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                if id(value) in twins:
                    module.register_parameter(name, twins[id(value)])


