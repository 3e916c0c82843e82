"""LQ-LoRA: low-rank first, what is left is quantized, weighted by Fisher information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from trainable import registry
from trainable.adapters.allocation import allocated
from trainable.adapters.base import AdapterStart, Layer, Start, low_rank
from trainable.quantizers.base import Quantizer


class LQLoRA(AdapterStart):
    """LQ-LoRA (2311.12023): L R = SVD_r(W - Q) under Fisher weights, Q = quantizer(W - L R), until
    it stops helping."""

    name = "lq_lora"
    needs = ("fisher",)

    class Params(registry.Params):
        """`rounds`: at most; `fisher`: weigh by row and column means of the Fisher information. With a
        `budget`, an integer program gives each matrix its own of `bits` and `groups`."""

        rounds: int = Field(100, ge=1, le=1000,
                            description="alternations at most; they stop when the error rises")
        fisher: bool = Field(True, description="weigh rows and columns by their mean squared gradient")
        budget: float | None = Field(
            None, gt=0, le=16, description="most stored bits a value of the quantized matrices together, "
                                           "scales counted; null: all as the quantizer says")
        bits: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
            (2, 3, 4), min_length=1, description="with a budget: bits that a matrix may have")
        groups: tuple[Annotated[int, Field(ge=4, le=65536)], ...] = Field(
            (16, 32, 64), min_length=1, description="with a budget: values that may share a scale")

    params: Params

    def quantizers(self, layers: Sequence[Layer]) -> dict[str, Quantizer]:
        """The assignment under the budget that loses least of what the first low-rank part leaves."""
        params = self.params
        if params.budget is None:
            return {}
        return allocated(layers, params.budget, params.bits, params.groups, self._errors)

    def _errors(self, layer: Layer, quantizers: Sequence[Quantizer]) -> list[float]:
        """Sum of F (M - Q(M))^2 for each, M = W - SVD_r(W). F is not scaled to the matrix here: matrices are
        compared by what they lose."""
        up, down = self._factors(layer, layer.weight)
        left = layer.weight - up @ down
        told = layer.fisher if self.params.fisher and layer.fisher is not None else torch.ones_like(left)
        return [float((told * (left - each.fake_quantize(left)).square()).sum(dtype=torch.float64))
                for each in quantizers]

    def _factors(self, layer: Layer, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """L, R of the weighted low-rank approximation of a matrix [out, in]."""
        rows, columns, _ = self._weights(layer)
        up, down = low_rank(rows[:, None] * matrix * columns, layer.rank)
        return up / rows[:, None], down / columns

    def start(self, layer: Layer) -> Start:
        """Least ||sqrt(F) (W - Q - L R)|| over the rounds: the released code returns its last, worse round
        (models/lq_utils.py); the best is kept here."""
        *_, weights = self._weights(layer)
        best, least, quantized = None, float("inf"), torch.zeros_like(layer.weight)
        for _ in range(self.params.rounds):
            up, down = self._factors(layer, layer.weight - quantized)
            found = Start(layer.weight - up @ down, up, down)
            quantized = layer.quantized(found.master)
            error = float((weights * (layer.weight - quantized - up @ down)).norm())
            if best is not None and error >= least:
                break
            best, least = found, error
        assert best is not None
        return best

    def _weights(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """D1 [out] = sqrt(mean_j F), D2 [in] = sqrt(mean_i F), and sqrt(F) [out, in],
        all with mean square 1. Rows and columns that no gradient reached count a little, so that nothing
        is divided by 0."""
        fisher = layer.fisher
        if not self.params.fisher or fisher is None or float(fisher.sum()) == 0:
            ones = torch.ones_like(layer.weight)
            return ones[:, 0], ones[0], ones
        fisher = fisher / fisher.mean()
        floor = 1e-4
        return (fisher.mean(1).clamp_min(floor).sqrt(), fisher.mean(0).clamp_min(floor).sqrt(), fisher.sqrt())
