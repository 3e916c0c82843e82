"""Training losses of masked diffusion: a weighted sum of cross-entropies at masked positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainable.diffusion.masked.config import LossNorm, MaskedConfig
from trainable.diffusion.masked.corruption import State
from trainable.diffusion.masked.schedule import Schedule
from trainable.models.masked_lm.backbone import MaskedLM


def cart_weights(masked: Tensor, p: float = 0.3) -> Tensor:
    """CART (Dream, arXiv 2508.15487, section 3.2): of a masked position i, the sum over seen positions j of
    p (1 - p)^(|i - j| - 1) / 2: near 1 between two seen stretches, near 0 far from all. [B, L]; 0 at seen
    positions, and all over a row that is masked throughout.

    (dllm's program leaves out the direct neighbors; the paper's formula, which is used here, does not.)
    """
    position = torch.arange(masked.shape[1], device=masked.device)
    distance = (position[:, None] - position).abs()
    near = torch.where(distance > 0, p * (1 - p) ** (distance - 1).clamp(min=0).double() / 2, 0.0)
    return ((~masked).double() @ near).float() * masked


def token_weights(state: State, free: Tensor, params: MaskedConfig, schedule: Schedule) -> Tensor:
    """[B, L] weights of the cross-entropies, before the division. `free` [B, L]: what could
    have been masked."""
    recipe = params.as_recipe
    masked = state.masked.float()
    if recipe.weight == "cart":
        return cart_weights(state.masked, params.cart_p)
    if recipe.weight == "nelbo":
        assert state.t is not None
        # the count k stands for the time: M/k, and how densely the schedule lies there
        if params.masking == "exact":
            weight = schedule.rate(state.t) * free.sum(1) / state.masked.sum(1).clamp(min=1)
        else:
            weight = schedule.weight(state.t, recipe.guard)
        return weight[:, None] * masked
    # 1/t without the noise of the count: a row with n masked ones has 1/n for each
    if recipe.weight == "row_mean":
        return masked * free.sum(1, keepdim=True) / masked.sum(1, keepdim=True).clamp(min=1)
    return masked


def normalize(weights: Tensor, masked: Tensor, free: Tensor, norm: LossNorm) -> Tensor:
    """Weights [B, L] divided so that their product with cross-entropies sums to the loss. Never by
    the sum of weights, which is 0 in a row where CART has nothing to say."""
    if norm == "token":
        return weights / free.sum().clamp(min=1)
    if norm == "sequence":
        return weights / free.sum(1, keepdim=True).clamp(min=1) / len(weights)
    if norm == "batch":
        return weights / len(weights)
    return weights / masked.sum().clamp(min=1)


def masked_loss(backbone: MaskedLM, ids: Tensor, state: State, weights: Tensor,
                previous: Tensor | None = None, condition: Tensor | None = None) -> dict[str, Tensor]:
    """`loss`: sum of weights [B, L] times cross-entropy at the masked positions; `ce`: their
    plain mean, detached.

    The head is computed at masked positions only.
    """
    logits = backbone(state.ids, at=state.masked, previous=previous, condition=condition)
    nll = F.cross_entropy(logits.float(), ids[state.masked], reduction="none")
    return {"loss": (nll * weights[state.masked]).sum(), "ce": nll.detach().sum() / max(1, len(nll))}


def first_guess(backbone: MaskedLM, state: State, condition: Tensor | None = None) -> Tensor:
    """[B, L, hidden]: the expected embedding of a first look at the masked positions, 0 elsewhere,
    without gradient."""
    with torch.no_grad():
        logits = backbone(state.ids, at=state.masked, condition=condition)
        guess = backbone.expected(logits.float().softmax(-1))
        soft = guess.new_zeros((*state.ids.shape, guess.shape[-1]))
        soft[state.masked] = guess
    return soft
