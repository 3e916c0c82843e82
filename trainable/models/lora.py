"""LoRA on the body, through peft, and the count of what a trial trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spaces.config import AdaptConfig, LoraConfig
from spaces.errors import UserError
from trainable.models.backbone import Backbone

ADAPTER = "default"
"""peft's name of the one adapter."""
LEARNED = ".parametrizations.weight.0.trained."
"""In the name of a parameter: a quantizer learns it (`trainable.quantization.sites.FakeQuant`)."""


def target_pattern(model: Backbone, config: LoraConfig) -> str:
    """Regular expression of the names in `model.body` that the adapter sits on, as peft takes it.

    Raises `UserError` where the backbone has no part of that role.
    """
    roles = model.lora_targets()
    for role in config.targets:
        if role not in roles:
            raise UserError(f"lora.targets: model {model.name} has no {role!r}; legal: {', '.join(roles)}")
    return r".*(?:" + "|".join(roles[role] for role in config.targets) + ")$"


def add_lora(model: Backbone, config: LoraConfig, seed: int = 0) -> int:
    """Put rank-r adapters on the targets in `model.body`; returns the values added.

    The update is scaled by alpha / r or, as rsLoRA (arXiv 2312.03732), by alpha / sqrt(r). DoRA
    (arXiv 2402.09353) has a magnitude for each output beside it: see `merged`. Rank 0 adds nothing. On the
    published body, q and v: 36,864 r values. peft draws its start from torch's global generator, which is
    seeded here and put back.
    """
    if config.rank == 0 or not config.targets:
        return 0
    from peft import LoraConfig as PeftLora  # seconds, which a trial without an adapter need not wait
    from peft import inject_adapter_in_model

    settings = PeftLora(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
                        target_modules=target_pattern(model, config),
                        use_rslora=config.variant == "rslora", use_dora=config.variant == "dora")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model.body)
    return sum(value.numel() for name, value in model.body.named_parameters() if "lora_" in name)


def merged(weight: Tensor, a: Tensor, b: Tensor, magnitude: Tensor | None = None) -> Tensor:
    """[out, in] the weight that a layer with an adapter computes with: W + B A, of a [rank, in] and b
    [out, rank], its scale included. Under DoRA (eq. 5) its rows keep the direction of those, and have the
    lengths `magnitude` [out]."""
    found = weight + b @ a
    return found if magnitude is None else found * (magnitude / torch.linalg.norm(found, dim=1))[:, None]


def magnitude_of(layer: Any) -> Tensor | None:
    """DoRA's magnitudes [out] of one of peft's layers; None for other adapters."""
    return layer.lora_magnitude_vector[ADAPTER].weight if ADAPTER in layer.lora_magnitude_vector else None


def set_trainable(model: Backbone, adapt: AdaptConfig) -> None:
    """Freeze the body but for its adapters (`body: frozen`), or train it all. The rest trains,
    frozen tables excepted.

    What quantizers learn (scales, codebooks) trains everywhere.
    """
    for name, value in model.body.named_parameters():
        value.requires_grad_("lora_" in name or LEARNED in name or adapt.body == "trainable")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) values, counted from the model itself."""
    sizes = [(value.numel(), value.requires_grad) for value in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
