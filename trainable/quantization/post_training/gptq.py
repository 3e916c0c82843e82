"""GPTQ (arXiv 2210.17323): inputs are rounded one after another, and those not yet rounded make up for the
error.

Two departures from the published code. An input that was zero throughout calibration is rounded to nearest
(the reference sets its weight to zero, which costs nothing in calibration and much on the first text where it
is not zero). And an output whose calibration error plain rounding of the same groups does not exceed is
rounded plainly, so that GPTQ never loses to `rtn` on the statistics that it was given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from trainable.quantization.post_training.base import Encoded, Shape
from trainable.quantization.post_training.grid import (
    Grid,
    GridMethod,
    GridParams,
    blocks_of,
    find_grid,
    group_size,
)
from trainable.quantization.post_training.hessian import inverse_factor
from trainable.quantization.post_training.statistics import SECOND_MOMENT, Statistics, output_error
from trainable.quantizers.base import IntegerGroups, Part, finite32

BLOCK = 128
"""Inputs whose errors are passed on to the rest of the weight at once."""


class GptqParams(GridParams):
    order: Literal["given", "activation"] = Field(
        "given", description="activation: inputs of the largest second moment are rounded first (act-order)")
    static_groups: bool = Field(
        True, description="scales from the original weight; false: as compensated when a group starts")
    damping: float = Field(
        0.01, ge=0, le=1, description="share of the Hessian's mean diagonal that is added to it")


class _Rounded(NamedTuple):
    codes: Tensor
    """[in, out] float32, in rounding order."""
    grid: Grid
    """[out, groups, 1]."""


class GPTQ(GridMethod):
    """Second-order rounding: each error is compensated by the inputs that are rounded later."""

    name = "gptq"
    Params = GptqParams
    params: GptqParams

    @classmethod
    def examples(cls) -> Sequence[BaseModel]:
        make = GptqParams
        return [make(), make(bits=2, group=16), make(bits=3, order="activation"), make(bits=8, scale_bits=32),
                make(group=8, order="activation", static_groups=False),
                make(bits=3, group=8, static_groups=False),
                make(symmetric=True, clip="search", order="activation", group=16)]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({SECOND_MOMENT})

    @property
    def _reorders_groups(self) -> bool:
        """Whether groups are of inputs in rounding order, which must then be stored."""
        params = self.params
        return params.order == "activation" and params.group > 0 and not params.static_groups

    def encode(self, weight: Tensor, statistics: Statistics | None = None) -> Encoded:
        if statistics is None:
            raise ValueError("gptq encodes with statistics")
        weight, second = finite32(weight), statistics.second_moment.to(weight.device)
        width = weight.shape[1]
        size = group_size(width, self.params.group)
        order = torch.arange(width, device=weight.device)
        if self.params.order == "activation":
            order = second.diagonal().argsort(descending=True, stable=True)
        groups = torch.arange(width, device=weight.device) // size
        source = weight[:, order] if self._reorders_groups else weight
        plain_grid = find_grid(blocks_of(source, self.params.group), self.params)
        groups = groups if self._reorders_groups else groups[order]
        ordered, second = weight[:, order], second[order][:, order]
        factor = inverse_factor(second, self.params.damping, statistics.name)
        rounded = self._compensate(ordered, factor.upper, plain_grid, groups)
        codes, grid, plain = self._better(ordered, second, rounded, plain_grid, groups)
        if not self._reorders_groups:
            codes = codes[:, order.argsort()]
        encoded = self.pack(codes, grid, {**factor.report, "plain_outputs": float(plain)})
        if self._reorders_groups:
            encoded.parameters["order"] = order.int()
        return encoded

    def _compensate(self, weight: Tensor, upper: Tensor, plain: Grid, groups: Tensor) -> _Rounded:
        """Weight [out, in] in rounding order, U, grid of the original weight and each input's group ->
        codes."""
        params, top = self.params, self.params.top
        out, width = weight.shape
        size = group_size(width, params.group)
        measures = params.group > 0 and not params.static_groups
        # Blocks start where groups do, so that a group is fully compensated when it is measured.
        block = max(size, BLOCK // size * size) if measures else BLOCK
        scale, zero = (table.squeeze(-1).T.clone(memory_format=torch.contiguous_format) for table in plain)
        factor = upper.float()
        spread = (factor / factor.diagonal()[:, None]).contiguous()
        work = weight.T.clone(memory_format=torch.contiguous_format)  # .contiguous() aliases a single row
        codes = torch.empty_like(work)
        group_of = groups.tolist()
        for start in range(0, width, block):
            stop = min(start + block, width)
            errors = torch.empty(stop - start, out, device=weight.device)
            for j in range(start, stop):
                group, value = group_of[j], work[j]
                if measures and j % size == 0:
                    grid = find_grid(work[j:j + size].T, params)
                    scale[group], zero[group] = grid.scale[:, 0], grid.zero[:, 0]
                code = torch.div(value, scale[group], out=codes[j]).round_().add_(zero[group]).clamp_(0, top)
                error = torch.sub(value, (code - zero[group]).mul_(scale[group]), out=errors[j - start])
                if j + 1 < stop:
                    work[j + 1:stop].addr_(spread[j, j + 1:stop], error, alpha=-1)
            if stop < width:
                work[stop:].addmm_(spread[start:stop, stop:].T, errors, alpha=-1)
        return _Rounded(codes, Grid(scale.T[..., None].contiguous(), zero.T[..., None].contiguous()))

    def _better(self, weight: Tensor, second: Tensor, rounded: _Rounded, plain: Grid,
                groups: Tensor) -> tuple[Tensor, Grid, int]:
        """Of compensated and plain codes, each output's with the smaller error: codes [out, in], grid, plain
        outputs."""
        def at_inputs(grid: Grid) -> Grid:
            return Grid(grid.scale[:, groups, 0], grid.zero[:, groups, 0])

        ours, theirs = at_inputs(rounded.grid), at_inputs(plain)
        codes, nearest = rounded.codes.T, theirs.codes(weight, self.params.top)
        loses = (output_error(weight, ours.values(codes), second)
                 >= output_error(weight, theirs.values(nearest), second))[:, None]
        grid = Grid(*(torch.where(loses[..., None], p, r) for p, r in zip(plain, rounded.grid, strict=True)))
        return torch.where(loses, nearest, codes), grid, int(loses.sum())

    def decode(self, encoded: Encoded, shape: Shape) -> Tensor:
        values = super().decode(encoded, shape)
        return values[:, encoded.parameters["order"].argsort()] if self._reorders_groups else values

    def integer_groups(self, encoded: Encoded, shape: Shape) -> IntegerGroups | None:
        # inputs of a group that do not stand side by side
        return None if self._reorders_groups else super().integer_groups(encoded, shape)

    def layout(self, shape: Shape) -> dict[str, Part]:
        parts = super().layout(shape)
        return {**parts, "order": Part(torch.int32, math.prod(shape[1:]))} if self._reorders_groups else parts
