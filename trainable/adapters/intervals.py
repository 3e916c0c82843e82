"""An adapter for each interval of the noise level (after arXiv 2401.04339), chosen row by row.

Each interval has both factors. With A in common, what an interval reads of its inputs would be up to all the
others, and half of the bytes be saved at most; so each is LoRA on its own part of the training states. A
row's level is the one that it is shown at (`trainable.models.noise`), as for scales by interval.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.config import LoraConfig
from spaces.errors import UserError
from trainable.models.backbone import Backbone
from trainable.models.lora import ADAPTER
from trainable.models.noise import Noise
from trainable.quantization.post_training.intervals import Intervals


def by_interval(model: Backbone, config: LoraConfig) -> None:
    """Give each of `lora.intervals` equal intervals of the noise level adapters of its own, in place: copies
    of peft's, under the same names, [K, r, in] and [K, out, r]. With one interval nothing changes. Raises
    `UserError` for a model whose layers are not told the level."""
    if config.intervals == 1 or config.rank == 0:
        return
    if not tells_noise(type(model)):
        raise UserError(untold(model.name, config.intervals))
    if model.noise is None:
        model.noise = Noise()
    for module in list(model.modules()):
        for factors in (getattr(module, name, None) for name in ("lora_A", "lora_B")):
            if isinstance(factors, nn.ModuleDict) and ADAPTER in factors:
                factor: Any = factors[ADAPTER]
                factors[ADAPTER] = FactorByInterval(factor, config.intervals, model.noise)


def tells_noise(kind: type[Backbone]) -> bool:
    """Whether layers of these models are told how noisy the rows are that they read."""
    return kind.noise_of is not Backbone.noise_of


def untold(model: str, intervals: int) -> str:
    """Why such a model has adapters for all levels only, in one line."""
    return (f"lora.intervals={intervals}: model {model} tells no layer how noisy its rows are; legal: "
            "lora.intervals: 1")


def products(x: Tensor, weights: Tensor) -> Tensor:
    """Rows x [B, ..., in] times weights [B, out, in], each by its own: [B, ..., out]."""
    flat = x.reshape(len(x), -1, x.shape[-1])
    return torch.bmm(flat, weights.mT).view(*x.shape[:-1], weights.shape[1])


class FactorByInterval(nn.Linear):
    """One factor of an adapter, of which each interval has its own: weight [K, out, in]. A row gives no
    gradient to any but its interval's."""

    def __init__(self, factor: nn.Linear, count: int, noise: Noise):
        super().__init__(factor.in_features, factor.out_features, bias=False, device="meta")
        copies = factor.weight.detach().expand(count, -1, -1).clone()
        self.weight = nn.Parameter(copies, requires_grad=factor.weight.requires_grad)
        self.intervals, self.noise = Intervals.equal(count), noise

    def forward(self, input: Tensor) -> Tensor:
        """[B, ..., in] -> [B, ..., out]."""
        return products(input, self.weight[self.intervals.index(self.noise.level)])


class AdaptedByInterval(nn.Linear):
    """A Linear of an artifact with the adapters of each interval beside it: `lora_a` [K, r, in], `lora_b`
    [K, out, r], scale included. No one weight could stand for them."""

    def __init__(self, weight: Tensor, bias: Tensor | None, lora_a: Tensor, lora_b: Tensor, noise: Noise):
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self.lora_a, self.lora_b = (nn.Parameter(value, requires_grad=False) for value in (lora_a, lora_b))
        self.intervals, self.noise = Intervals.equal(len(lora_a)), noise

    def forward(self, input: Tensor) -> Tensor:
        """[B, ..., in] -> [B, ..., out]."""
        own = self.intervals.index(self.noise.level)
        return (F.linear(input, self.weight, self.bias)
                + products(products(input, self.lora_a[own]), self.lora_b[own]))
