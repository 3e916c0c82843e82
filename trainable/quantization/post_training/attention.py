"""Attention of a body with its values and probabilities rounded, and a way to look at both.

transformers lets a program register an attention function by name; a layer is given ours by a configuration
of its own, so that its neighbors stay as they are. Our own encoder has a place for it. Where probabilities
are not rounded the fused kernel that ran before runs on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.errors import UserError
from trainable.compat import attention_implementation, with_attention
from trainable.models.backbone import Backbone
from trainable.models.noise import Noise
from trainable.models.parts import plain_name
from trainable.quantization.post_training.intervals import Intervals
from trainable.quantization.post_training.running import AttentionRounding, ValueScales

IMPLEMENTATION = "qdlm_rounded"
Look = Callable[[Tensor, Tensor, Tensor | None], None]
"""Of probabilities [B, heads, queries, keys], values [B, keys, features] and allowed keys, bool
[B, 1, queries, keys] or None for all."""


@dataclass(frozen=True)
class Parts:
    """Names of the modules of one attention layer."""

    core: str
    """Computes probabilities and their product with the values."""
    output: str
    """The Linear that reads it."""


def attention_of(model: Backbone, block: str) -> Parts | None:
    """The attention of a block (`body.layer.0`), found by the backbone's names for adapters; None where it
    has none."""
    found = {}
    for role in ("value", "output"):
        pattern = re.compile(rf"(?:^|\.)(?:{model.lora_targets()[role]})$")
        names = [name for name, module in model.named_modules()
                 if name.startswith(f"{block}.") and pattern.search(plain_name(name))
                 and hasattr(module, "weight")]
        if len(names) != 1:
            return None
        found[role] = names[0]
    core = found["value"].rpartition(".")[0]
    module = model.get_submodule(core)
    able = hasattr(module, "config") or hasattr(module, "rounded_attention")
    return Parts(core, found["output"]) if able else None


class RoundedAttention(nn.Module):
    """What one attention layer rounds. Gradients pass the rounding straight through."""

    traceable = False

    value_scale: Tensor | None
    beta: Tensor | None

    def __init__(self, rounding: AttentionRounding | None = None, intervals: Intervals | None = None,
                 device: torch.device | str = "cpu", noise: Noise | None = None):
        super().__init__()
        self.intervals, self.noise = intervals or Intervals(), noise
        self.look: Look | None = None
        self.plain: Callable[..., tuple[Tensor, Tensor | None]] = _fused
        """What runs where probabilities are not rounded."""
        self.device = torch.device(device)
        self.set(rounding)

    def set(self, rounding: AttentionRounding | None) -> None:
        """Round so from now on."""
        self.rounding, device = rounding, self.device
        scale = None if rounding is None else rounding.value_scale
        beta = None if rounding is None else rounding.beta
        self.register_buffer("value_scale", None if scale is None else scale.to(device), persistent=False)
        self.register_buffer("beta", None if beta is None else beta.to(device), persistent=False)

    def forward(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
                scaling: float | None = None, **rest: Any) -> tuple[Tensor, Tensor | None]:
        """As transformers calls it: heads [B, heads, L, size] -> [B, L, heads, size] and no probabilities."""
        if self.value_scale is not None:
            value = self._rounded_values(value)
        if self.look is None and self.beta is None:
            return self.plain(module, query, key, value, mask, scaling=scaling, **rest)
        allowed = self._allowed(module, query, key, mask, rest)
        probabilities = self._probabilities(query, key, mask, allowed, scaling)
        if self.look is not None:
            self.look(probabilities, value.transpose(1, 2).flatten(2), allowed)
        if self.beta is None:
            return self.plain(module, query, key, value, mask, scaling=scaling, **rest)
        assert self.rounding is not None and self.rounding.softmax_bits is not None
        rounded = round_probabilities(probabilities.detach(), self.rounding.softmax_bits)
        beta = self.beta[0] if len(self.beta) == 1 else self.beta[self._rows()]
        beta = beta.to(rounded.dtype)[..., None, None]
        rounded = rounded + (beta if allowed is None else beta * allowed)
        probabilities = probabilities + (rounded - probabilities).detach()
        groups = query.shape[1] // value.shape[1]
        out = probabilities @ value.repeat_interleave(groups, 1)
        return out.transpose(1, 2).contiguous(), None

    def _rows(self) -> Tensor:
        assert self.noise is not None
        return self.intervals.index(self.noise.level)

    def _rounded_values(self, value: Tensor) -> Tensor:
        assert self.rounding is not None and self.rounding.value_bits is not None
        assert self.value_scale is not None
        scales = ValueScales(self.value_scale, float((1 << self.rounding.value_bits - 1) - 1))
        flat = value.detach().transpose(1, 2).flatten(2)
        rounded = scales.fake_quantize(flat).unflatten(2, (value.shape[1], -1)).transpose(1, 2)
        return value + (rounded - value).detach()

    @staticmethod
    def _allowed(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None,
                 rest: dict[str, Any]) -> Tensor | None:
        """Keys that a query may see, bool [B or 1, 1, queries, keys]; None for all."""
        if mask is not None:
            return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        causal = rest.get("is_causal")
        causal = getattr(module, "is_causal", False) if causal is None else causal
        if not causal or query.shape[2] == 1:
            return None
        ones = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        return ones.tril()[None, None]

    @staticmethod
    def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None, allowed: Tensor | None,
                       scaling: float | None) -> Tensor:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if mask is not None and mask.dtype != torch.bool:
            scores = scores + mask
        elif allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        return scores.softmax(-1)


def round_probabilities(probabilities: Tensor, bits: int) -> Tensor:
    """Values in [0, 1] -> nearest of 2^bits levels that span it, same dtype."""
    top = float((1 << bits) - 1)
    return (probabilities * top).round_().clamp_(0, top) / top


def _fused(_: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
           scaling: float | None = None) -> tuple[Tensor, Tensor | None]:
    found = F.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    return found.transpose(1, 2), None


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
            **rest: Any) -> tuple[Tensor, Tensor | None]:
    rounded = module.rounded_attention
    assert isinstance(rounded, RoundedAttention)
    found: tuple[Tensor, Tensor | None] = rounded(module, query, key, value, attention_mask, **rest)
    return found


def attach(core: nn.Module, attention: RoundedAttention) -> None:
    """Let an attention layer compute through `attention`. Raises `UserError` where it cannot."""
    if not hasattr(core, "config"):
        core.rounded_attention = attention
        return
    if attention_implementation(core.config) not in ("sdpa", IMPLEMENTATION):
        raise UserError("calibration.corrections: the attention of this model is not one of transformers' "
                        "with attn_implementation sdpa")
    from transformers import AttentionInterface  # slow to load, and not every model is one of its own

    AttentionInterface.register(IMPLEMENTATION, _attend)
    attention.plain = AttentionInterface()["sdpa"]
    core.config, core.rounded_attention = with_attention(core.config, IMPLEMENTATION), attention


def detach(core: nn.Module) -> None:
    """The layer as it was before `attach`."""
    core.register_module("rounded_attention", None)
    if hasattr(core, "config"):
        core.config = with_attention(core.config, "sdpa")
