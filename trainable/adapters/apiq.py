"""ApiQ: adapters and clipping that keep a block's activations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from trainable import registry
from trainable.adapters.base import AdapterStart, Layer, Start
from trainable.training.optimizer import adamw

OPEN = 4.0
"""Logits of the clips at first: sigmoid(4) = 0.982 of the range."""


class Call(NamedTuple):
    """One call of a block: what it was given where earlier blocks are quantized, and what the
    full-precision block gives where they are not."""

    args: tuple[Any, ...]
    named: dict[str, Any]
    wanted: Tensor


class ApiQ(AdapterStart):
    """ApiQ (2402.05147), block by block: L, R and the clipping of W are trained so that the quantized
    block, on quantized inputs, puts out what the full-precision one does."""

    name = "apiq"

    class Params(registry.Params):
        """The paper's, but for `batch` (1 there) and `lr` (5e-4 there): bodies of a few 100,000
        values learn too little in so few steps."""

        epochs: int = Field(20, ge=0, le=1000, description="passes over the calibration states; 0: as `zero`")
        batch: int = Field(4, ge=1, description="calibration states per step")
        lr: float = Field(5e-3, gt=0, description="of L and R (AdamW)")
        clip_lr: float = Field(5e-3, gt=0, description="of the clips' logits")
        weight_decay: float = Field(0.1, ge=0, description="of both")

    params: Params

    def start(self, layer: Layer) -> Start | None:
        """As `zero`; `fit` goes on from there."""
        return None

    def fit(self, block: nn.Module, masters: Sequence[str], calls: Sequence[Call]) -> tuple[float, float]:
        """Train the adapters of `block` and clip its masters (names of parameters of `block`) in place.

        Returns the mean squared error of the block's output before and after; the best epoch is kept,
        so it never rises.
        """
        state = dict(block.named_parameters())
        factors = {name: state[name].detach().clone().requires_grad_() for name in state if "lora_" in name}
        clips = {name: torch.full((2, len(state[name]), 1), OPEN, device=state[name].device).requires_grad_()
                 for name in masters}
        params = self.params
        optimizers = [adamw(factors.items(), lr=params.lr, weight_decay=params.weight_decay),
                      adamw(clips.items(), lr=params.clip_lr, weight_decay=params.weight_decay)]
        plain = {name: state[name].detach() for name in masters}
        before = least = self._error(block, {}, calls)
        best: dict[str, Tensor] = {}
        for _ in range(params.epochs):
            for call in calls:
                changed = {**factors, **{name: clipped(plain[name], clips[name]) for name in masters}}
                loss = _difference(block, changed, call)
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            with torch.no_grad():
                changed = {**factors, **{name: clipped(plain[name], clips[name]) for name in masters}}
                error = self._error(block, changed, calls)
                if error < least:
                    least, best = (error,
                                   copy.deepcopy({name: value.detach() for name, value in changed.items()}))
        with torch.no_grad():
            for name, value in best.items():
                state[name].copy_(value)
        return before, least

    @torch.no_grad()
    def _error(self, block: nn.Module, changed: Mapping[str, Tensor], calls: Sequence[Call]) -> float:
        return sum(float(_difference(block, changed, call)) for call in calls) / len(calls)


def clipped(master: Tensor, clip: Tensor) -> Tensor:
    """Rows of a master [out, in] held within sigmoid(clip) of their own range, clip [2, out, 1]."""
    low, high = master.amin(1, keepdim=True), master.amax(1, keepdim=True)
    share = clip.sigmoid()
    return torch.maximum(torch.minimum(master, share[1] * high), share[0] * low)


def output(found: Any) -> Tensor:
    """The hidden states of what a block returns: itself, or the first of a tuple."""
    return found if isinstance(found, Tensor) else found[0]


def _difference(block: nn.Module, changed: Mapping[str, Tensor], call: Call) -> Tensor:
    found = output(functional_call(block, dict(changed), call.args, call.named))
    return (found - call.wanted).square().mean()
