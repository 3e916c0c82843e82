"""LoRA on the body, through peft, and the count of what a trial trains."""

from __future__ import annotations

import torch
from peft import LoraConfig as PeftLora
from peft import inject_adapter_in_model
from torch import nn

from spaces.config import AdaptConfig, LoraConfig

MODULES = {"query": r"self\.query", "key": r"self\.key", "value": r"self\.value",
           "output": r"attention\.output\.dense", "ffn": r"\d+\.(?:intermediate|output)\.dense"}


LEARNED = ".parametrizations.weight.0.trained."
"""In the name of a parameter: a quantizer learns it (`trainable.quantization.sites.FakeQuant`)."""


def add_lora(model: nn.Module, config: LoraConfig, seed: int = 0) -> int:
    """Put rank-r adapters (update scaled by alpha / r) on the targets in `model.body`; returns the values added.

    Rank 0 adds nothing. On the published body, q and v: 36,864 r values. peft draws its start from torch's global
    generator, which is seeded here and put back.
    """
    if config.rank == 0 or not config.targets:
        return 0
    pattern = r".*(?:" + "|".join(MODULES[name] for name in config.targets) + ")$"
    settings = PeftLora(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=pattern)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model.body)
    return sum(value.numel() for name, value in model.body.named_parameters() if "lora_" in name)


def set_trainable(model: nn.Module, adapt: AdaptConfig) -> None:
    """Freeze the body but for its adapters (`body: frozen`), or train it all. The rest trains, frozen tables excepted.

    What quantizers learn (scales, codebooks) trains everywhere.
    """
    for name, value in model.body.named_parameters():
        value.requires_grad_("lora_" in name or LEARNED in name or adapt.body == "trainable")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) values, counted from the model itself."""
    sizes = [(value.numel(), value.requires_grad) for value in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
