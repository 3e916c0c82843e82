"""Bits and groups of each weight under one budget: LQ-LoRA's integer program (2311.12023, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.adapters.base import Layer
from trainable.quantization.post_training.sensitivity import Cost, assign, smallest
from trainable.quantizers.base import Quantizer, shape_of
from trainable.registry import QUANTIZERS


def choices(quantizer: Quantizer, bits: Sequence[int], groups: Sequence[int]) -> dict[str, Quantizer]:
    """The quantizer at every number of bits and values of a group, by label; bits stay where its family has
    one number of them. Raises `UserError` for a family without groups, or without such bits."""
    fields = type(quantizer.params).model_fields
    if not {"granularity", "group"} <= fields.keys():
        able = [name for name in QUANTIZERS
                if {"granularity", "group"} <= QUANTIZERS.get(name).Params.model_fields.keys()]
        raise UserError(f"lora.start: a budget is spent on groups of values, and quantizer {quantizer.name} "
                        f"has none; legal: {', '.join(able)}")
    plain = {**quantizer.params.model_dump(mode="json"), "granularity": "group"}
    made = [QUANTIZERS.build(PluginRef(name=quantizer.name, **{**plain, "group": group, **given}))
            for given in ([{"bits": each} for each in bits] if "bits" in fields else [{}])
            for group in groups]
    return {each.label: each for each in made}


def allocated(layers: Sequence[Layer], budget: float, bits: Sequence[int], groups: Sequence[int],
              errors: Callable[[Layer, Sequence[Quantizer]], Sequence[float]]) -> dict[str, Quantizer]:
    """Layer -> the quantizer that it gets: the least sum of `errors` whose stored bytes, codes and scales,
    are at most `budget` bits a value of all layers together.

    Raises `UserError` where no assignment is that small.
    """
    made = {layer.name: choices(layer.quantizer, bits, groups)
            for layer in layers if layer.quantizer is not None}
    table = [Cost(layer.name, label, quantizer.stored_bytes(shape_of(layer.weight)), error)
             for layer in layers if layer.name in made
             for (label, quantizer), error in zip(
                 made[layer.name].items(), errors(layer, list(made[layer.name].values())), strict=True)]
    values = sum(layer.weight.numel() for layer in layers if layer.name in made)
    if (least := smallest(table)) > (most := int(budget * values / 8)):
        enough = math.ceil(8000 * least / values) / 1000
        raise UserError(f"lora.start: a budget of {budget:g} bits a value is {most:,} bytes, the smallest "
                        f"assignment takes {least:,}; legal: at least {enough:g}")
    return {name: made[name][label] for name, label in assign(table, most).items()}
