"""One set of codes, scales of its own for each interval of the noise level (after arXiv 2401.04339).

Codes stay as they are; for interval k the decoded weight Q becomes diag(s_k) Q diag(u_k), s over outputs and,
where asked for, u over inputs, so that its outputs are nearest to those of the weight W on the interval's
calibration tokens. Both are least squares in closed form, and the result is never worse there than s = u = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from trainable.quantization.post_training.corrections import Correction
from trainable.quantization.post_training.statistics import SECOND_MOMENT, Statistics, output_error
from trainable.registry import Params

if TYPE_CHECKING:
    from trainable.quantization.post_training.block import Block


class IntervalScaleParams(Params):
    sides: Literal["outputs", "both"] = Field(
        "outputs", description="scales of outputs alone, or of inputs too")
    rounds: int = Field(3, ge=1, le=50, description="alternations between the sides")


class IntervalScales(NamedTuple):
    """Scales float32 by interval: outputs [K, out], inputs [K, in] (ones with sides: outputs)."""

    outputs: Tensor
    inputs: Tensor

    @property
    def bytes(self) -> int:
        """Size on disk beyond that of the codes."""
        sides = [side for side in self if bool((side != 1).any())]
        return sum(side.numel() * side.element_size() for side in sides)

    def weight(self, decoded: Tensor, interval: int) -> Tensor:
        """The weight of one interval."""
        return self.outputs[interval][:, None] * decoded * self.inputs[interval]


def fit_interval_scales(weight: Tensor, decoded: Tensor, intervals: list[Statistics],
                        params: IntervalScaleParams | None = None) -> IntervalScales:
    """Weight and decoded [out, in], statistics of each interval -> its scales; 1 where it has no calibration
    token."""
    params = params or IntervalScaleParams()
    fits = [_fit(weight.double(), decoded.double(), statistics, params) for statistics in intervals]
    outputs, inputs = zip(*fits, strict=True)
    return IntervalScales(torch.stack(outputs).float(), torch.stack(inputs).float())


def _fit(weight: Tensor, decoded: Tensor, statistics: Statistics,
         params: IntervalScaleParams) -> tuple[Tensor, Tensor]:
    ones = torch.ones_like(weight[:, 0]), torch.ones_like(weight[0])
    if not statistics.count:
        return ones
    second = statistics.second_moment.to(weight.device)
    outputs, inputs = ones
    for _ in range(params.rounds if params.sides == "both" else 1):
        current = decoded * inputs
        moved = current @ second
        power = (moved * current).sum(1)
        outputs = torch.where(power > 0, (moved * weight).sum(1) / power.clamp(min=1e-300), 1.0)
        if params.sides == "both":
            scaled = outputs[:, None] * decoded
            gram = (scaled.T @ scaled) * second
            aim = (scaled * (weight @ second)).sum(0)
            inputs = inputs + torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ (aim - gram @ inputs)
    # Compared as stored: where float32 scales lose to none at all, there is none.
    stored = (outputs.float().double()[:, None] * decoded) * inputs.float().double()
    better = output_error(weight, stored, second).sum() <= output_error(weight, decoded, second).sum()
    return (outputs, inputs) if better else ones


class IntervalScaling(Correction):
    """Weights rounded once, with scales of outputs and inputs for each interval of the noise level."""

    name = "interval_scales"
    Params = IntervalScaleParams
    needs = frozenset({SECOND_MOMENT})
    by_interval = True
    params: IntervalScaleParams

    def layers(self, block: Block, names: Sequence[str]) -> None:
        """Closed form, from the statistics that are there."""
        assert block.statistics is not None
        for name in names:
            done, weight = block.layers[name].done, block.layers[name].original.float()
            for each in done.maps:
                weight = each.weight(weight)
            parts = [part.after(done.maps) if part.count else part
                     for part in block.statistics.per_interval(name)]
            block.change(name, scales=fit_interval_scales(weight, done.weight, parts, self.params))
