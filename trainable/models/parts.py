"""The parts of a backbone: their names, with and without an adapter, and the forms of its word table."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

import torch
from torch import nn

Table = Literal["auto", "decoded", "packed"]
"""How an artifact's word table is kept: as codes where that is faster, as floats, as codes."""


class TableError(ValueError):
    """A table cannot be kept in the form that was asked for."""


def plain_name(name: str) -> str:
    """A module's name as it is without peft: `base_layer` and the wrapping model's prefix removed."""
    return name.replace("base_model.model.", "").removesuffix(".base_layer")


def block_name(name: str) -> str:
    """The numbered module that a part belongs to: `body.layer.0.attention.self.query` -> `body.layer.0`;
    a name without a number is a block of its own."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: number + 1])


def linear_names(model: nn.Module, roots: Collection[str], pattern: re.Pattern[str]) -> list[str]:
    """Linear modules below the attributes `roots` of a model whose plain names match, in model order;
    adapters' own Linears are never meant."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)
            and "lora_" not in name and name.split(".")[0] in roots and pattern.search(plain_name(name))]


def embedding(rows: int, width: int, padding_idx: int | None = None) -> nn.Embedding:
    """`nn.Embedding`, which on the meta device draws nothing: to draw there, torch imports its compiler,
    which takes longer than to load a small model."""
    if torch.get_default_device().type != "meta":
        return nn.Embedding(rows, width, padding_idx=padding_idx)
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False, padding_idx=padding_idx)
