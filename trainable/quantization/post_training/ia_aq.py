"""Interaction-aware rounding of the attention values (DLLMQuant's IA-AQ, arXiv 2508.14090).

A value that many queries attend to is worth more. Each feature gets one scale for all tokens, its range cut
to the ratio that minimizes sum_k w_k (Q(V_k) - V_k)^2, w_k the attention that token k receives. With a scale
per token the weights cancel and the method is void, so that is refused. Uniform weights are the plain search
for the least squared error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.quantization.post_training.corrections import Correction
from trainable.quantization.post_training.running import AttentionRounding, ValueScales
from trainable.quantization.post_training.statistics import Statistics
from trainable.quantization.post_training.token_weights import attention_received
from trainable.quantizers.blocks import SMALLEST
from trainable.registry import Params

if TYPE_CHECKING:
    from trainable.quantization.post_training.block import Block

RATIOS = 40
LEAST_RATIO = 0.05
FLOOR = 1e-4


class IaAqParams(Params):
    bits: Literal[4, 8] = Field(4, description="of an attention value")
    scales: Literal["feature", "token"] = Field(
        "feature", description="what shares a scale; token is refused")
    decided_queries: float = Field(
        1.0, ge=0, le=1, description="weight of queries at positions that are not masked")


class InteractionAware(Correction):
    """Attention values rounded with scales that favor tokens which are attended to."""

    name = "ia_aq"
    Params = IaAqParams
    attention = True
    params: IaAqParams

    def __init__(self, params: IaAqParams):
        super().__init__(params)
        if params.scales == "token":
            raise UserError("ia_aq: a scale per token leaves nothing for attention to weigh; "
                            "legal: scales: feature")
        self.levels = float((1 << params.bits - 1) - 1)

    def finish(self, block: Block) -> None:
        """Two passes over the states, by the block as it has been rounded: ranges, then errors."""
        if block.parts is None:
            return
        largest: Tensor | None = None
        errors: Tensor | None = None
        heads = 0

        def measure(probabilities: Tensor, values: Tensor, _: Tensor | None) -> None:
            nonlocal largest, heads
            if not torch.isfinite(values).all():
                raise UserError(f"ia_aq: attention values of {block.name} hold NaN or infinity")
            own, heads = values.flatten(0, 1).abs().amax(0), probabilities.shape[1]
            largest = own if largest is None else torch.maximum(largest, own)

        def count(probabilities: Tensor, values: Tensor, _: Tensor | None) -> None:
            nonlocal errors
            masked = block.noise.masked if self.params.decided_queries < 1 else None
            assert largest is not None
            found = self.errors(values, self.importance(probabilities, masked), largest)
            errors = found if errors is None else errors + found

        block.look(measure)
        block.look(count)
        assert largest is not None and errors is not None
        attention = block.attended()
        old = attention.rounding
        rounding = (AttentionRounding(heads, len(largest)) if old is None else old)
        block.let_attend(replace(rounding, value_bits=self.params.bits,
                                 value_scale=self.best(errors, largest).scale))

    @property
    def ratios(self) -> Tensor:
        """Shares of the range that are tried, 1 first, so that a tie is cut least."""
        return torch.linspace(1.0, LEAST_RATIO, RATIOS, dtype=torch.double)

    def importance(self, probabilities: Tensor, masked: Tensor | None = None) -> Tensor:
        """Softmax outputs [B, heads, queries, keys], masked queries [B, queries] -> weights [B, keys] of mean
        1.

        Scaled to mean 1 before the floor is added, so that the floor does not depend on the text's length.
        """
        queries = None if masked is None else torch.where(masked, 1.0, self.params.decided_queries)
        if queries is not None and not (queries.sum(1) > 0).all():
            raise UserError("ia_aq: decided_queries 0 leaves a text without masked positions no query")
        received = attention_received(probabilities, queries)
        weights = received / received.mean(-1, keepdim=True) + FLOOR
        return weights / weights.mean(-1, keepdim=True)

    def scales(self, largest: Tensor, ratio: Tensor) -> Tensor:
        """Largest |V| of each feature [features] and a ratio of it -> scales, float32."""
        return (largest.double() * ratio / self.levels).clamp(min=SMALLEST).float()

    def errors(self, values: Tensor, importance: Tensor, largest: Tensor) -> Tensor:
        """Values [..., features], weights [...] -> weighted squared error float64 [ratios, features]; batches
        add up."""
        tokens, weights = values.reshape(-1, values.shape[-1]).float(), importance.reshape(-1).double()
        if len(weights) != len(tokens):
            raise ValueError(f"ia_aq: {len(weights)} weights for {len(tokens)} values")
        found = []
        for ratio in self.ratios:
            scales = ValueScales(self.scales(largest, ratio.to(largest.device)), self.levels)
            found.append(weights @ (scales.fake_quantize(tokens) - tokens).double().square())
        return torch.stack(found)

    def best(self, errors: Tensor, largest: Tensor) -> ValueScales:
        """Summed `errors` -> the scale of each feature that loses least."""
        ratios = self.ratios.to(largest.device)[errors.argmin(0)]
        return ValueScales(self.scales(largest, ratios), self.levels)

    def fit(self, values: Tensor, importance: Tensor, statistics: Statistics | None = None) -> ValueScales:
        """Scales from values [..., features] at once, with ranges from statistics where there are any."""
        largest = (values.reshape(-1, values.shape[-1]).abs().amax(0) if statistics is None
                   else statistics.absolute_maximum)
        if not torch.isfinite(largest).all():
            raise UserError("ia_aq: attention values hold NaN or infinity")
        return self.best(self.errors(values, importance, largest), largest)
