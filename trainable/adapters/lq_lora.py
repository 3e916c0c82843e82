"""LQ-LoRA: low-rank first, what is left is quantized, weighted by Fisher information."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from trainable import registry
from trainable.adapters.base import AdapterStart, Layer, Start, low_rank


class LQLoRA(AdapterStart):
    """LQ-LoRA (2311.12023): L R = SVD_r(W - Q) under Fisher weights, Q = quantizer(W - L R), until
    it stops helping."""

    name = "lq_lora"
    needs = ("fisher",)

    class Params(registry.Params):
        """`rounds`: at most; `fisher`: weigh by row and column means of the Fisher information."""

        rounds: int = Field(100, ge=1, le=1000,
                            description="alternations at most; they stop when the error rises")
        fisher: bool = Field(True, description="weigh rows and columns by their mean squared gradient")

    params: Params

    def start(self, layer: Layer) -> Start:
        """Least ||sqrt(F) (W - Q - L R)|| over the rounds: the released code returns its last, worse round
        (models/lq_utils.py); the best is kept here."""
        rows, columns, weights = self._weights(layer)
        best, least, quantized = None, float("inf"), torch.zeros_like(layer.weight)
        for _ in range(self.params.rounds):
            up, down = low_rank(rows[:, None] * (layer.weight - quantized) * columns, layer.rank)
            up, down = up / rows[:, None], down / columns
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
