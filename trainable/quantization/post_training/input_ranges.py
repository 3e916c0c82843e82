"""Ranges of rounded inputs that calibration finds: static ones, and clip ratios of masked and of seen tokens.

A masked token and a seen one differ in the range of their activations while the weight is one for both, so a
ratio for each state (after STaR-Quant, arXiv 2606.04945, which gives each state a transform of its own) costs
two numbers a layer and interval of the noise level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from spaces.config import CalibrationConfig
from trainable.quantization.post_training.activations import (
    RATIOS,
    ActivationParams,
    ActivationQuantizer,
)
from trainable.quantization.post_training.corrections import Correction
from trainable.quantization.post_training.running import RoundedLinear
from trainable.quantization.post_training.statistics import HISTOGRAM, Calibration
from trainable.registry import Params

if TYPE_CHECKING:
    from trainable.quantization.post_training.block import Block


class StateClipParams(Params):
    error: Literal["outputs", "inputs"] = Field(
        "outputs", description="what the ratios lose least of: the layer's outputs, or its inputs")


class StateClip(Correction):
    """Each token's range of rounded inputs cut by a ratio of its state: masked or seen."""

    name = "state_clip"
    Params = StateClipParams
    by_interval = True
    by_state = True
    params: StateClipParams

    def problem(self, calibration: CalibrationConfig) -> str | None:
        if calibration.activation_bits == 16:
            return "needs calibration.activation_bits of 4 or 8: with 16 no input is rounded"
        if calibration.activation_range == "static":
            return "cuts a range of each token; legal with activation_range: dynamic"
        return None

    def layers(self, block: Block, names: Sequence[str]) -> None:
        """One pass over the states; a ratio that no token of an interval has a say in is that of all."""
        errors: dict[str, Tensor] = {}

        def count(name: str, x: Tensor) -> None:
            layer = block.linear(name)
            assert isinstance(layer, RoundedLinear)
            x = layer.mapped(x)
            weight = layer.weight if self.params.error == "outputs" else None
            total = errors.setdefault(name, torch.zeros(len(block.intervals), 2, len(RATIOS),
                                                        dtype=torch.double, device=x.device))
            rows = (block.intervals.index(block.noise.level) if len(block.intervals) > 1
                    else torch.zeros(len(x), dtype=torch.long, device=x.device))
            for interval in rows.unique().tolist():
                own = rows == interval
                total[interval] += layer.activations.clip_errors(x[own], block.noise.masked[own], weight)

        block.run({name: lambda x, name=name: count(name, x) for name in names})  # type: ignore[misc]
        for name in names:
            found = errors[name]
            known, whole = found.sum(-1, keepdim=True) > 0, found.sum((0, 1))
            per_state = found.sum(0).expand_as(found)
            seen = per_state.sum(-1, keepdim=True) > 0
            chosen = torch.where(known, found, torch.where(seen, per_state, whole)).argmin(-1)
            block.change(name, clips=torch.tensor(RATIOS, device=chosen.device)[chosen])


def static_ranges(block: Block, names: Sequence[str]) -> None:
    """Give rounded layers the range of all tokens of an interval, cut where that loses least; an interval
    without a token that of all. One pass over the states."""
    found = Calibration({HISTOGRAM}, block.intervals)

    def count(name: str, x: Tensor) -> None:
        layer = block.linear(name)
        assert isinstance(layer, RoundedLinear)
        levels = block.noise.level if len(block.intervals) > 1 else None
        found.add(name, layer.mapped(x), levels)

    block.run({name: lambda x, name=name: count(name, x) for name in names})  # type: ignore[misc]
    quantizer = ActivationQuantizer(ActivationParams.model_validate({"bits": block.bits, "range": "static"}))
    for name in names:
        whole = found.merged(name)
        ends = [quantizer.static_range(part if part.count else whole) for part in found.per_interval(name)]
        block.change(name, ranges=torch.stack([torch.cat([low, high]) for low, high in ends]).float())
        found.drop(name)
