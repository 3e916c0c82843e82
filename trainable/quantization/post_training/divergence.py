"""How far a quantized model is from its full-precision base, in the same states: sharper than any score of
its texts.

Perplexity of 128 texts cannot rank quantizers (its standard error exceeds their distances); the divergence of
the two models' token distributions at masked positions can. Positions that a masked model sees are left out:
there both models are certain, and counting them divides the result by the masked share.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def token_kl(base: Tensor, quantized: Tensor, positions: Tensor | None = None) -> Tensor:
    """KL(base || quantized) in nats at each position, float64, from logits [..., V].

    At `positions` (bool [...]) alone where given: [N], in order. A token that both rule out (logit -inf, as
    that of the mask) counts nothing; one that the base allows and the quantized model rules out makes the KL
    infinite.
    """
    if base.shape != quantized.shape:
        raise ValueError(f"logits of shape {tuple(base.shape)} and {tuple(quantized.shape)}")
    if positions is not None:
        base, quantized = base[positions], quantized[positions]
    p, q = base.double().log_softmax(-1), quantized.double().log_softmax(-1)
    probability = p.exp()
    return torch.where(probability == 0, 0.0, probability * (p - q)).sum(-1).clamp(min=0)


def argmax_flips(base: Tensor, quantized: Tensor, positions: Tensor | None = None) -> float:
    """Share of positions at which the two models' most probable tokens differ; logits [..., V]. NaN without
    positions."""
    differ = base.argmax(-1) != quantized.argmax(-1)
    return float((differ if positions is None else differ[positions]).double().mean())


def commit_flips(quantized: Tensor, tokens: Tensor, committed: Tensor) -> float:
    """Share of the base's commits that the quantized model would not have made in the same state. NaN without
    commits.

    quantized [..., L, V]: its logits in the base's states; tokens [..., L]: what the base committed;
    committed bool: where.
    """
    return float((quantized.argmax(-1)[committed] != tokens[committed]).double().mean())


class StabilityLag(NamedTuple):
    """How long a model doubts what it has committed (FAIR-Calib, arXiv 2606.06547)."""

    steps: Tensor
    """Of each commit, int64 [N]: steps after it until the model's first choice is the final token and stays
    so."""
    disagree: Tensor
    """Of each commit, float64 [N]: share of the later steps in which its first choice is another token."""
    never: float
    """Share of the commits whose token is the model's first choice in none of the later steps."""


def stability_lag(predicted: Tensor, committed: Tensor, final: Tensor) -> StabilityLag:
    """First choices [T, B, L] of each step, step of each commit [B, L] (-1: given), final tokens [B, L].

    Later steps are those in which the token is seen, t > the commit's; predictions there must be the
    network's own, before seen tokens are copied to the output. Commits of the last step have none and are
    left out.
    """
    steps = len(predicted)
    time = torch.arange(steps, device=predicted.device)[:, None, None]
    later = (time > committed) & (committed >= 0)
    wrong = (predicted != final) & later
    counted = later.any(0)
    last = torch.where(wrong, time, -1).amax(0)
    lag = torch.where(last >= 0, last - committed, 0)[counted]
    share = (wrong.sum(0) / later.sum(0).clamp(min=1).double())[counted]
    return StabilityLag(lag, share, float((share == 1).double().mean()) if len(share) else 0.0)


def error_by_step(base: Tensor, quantized: Tensor) -> Tensor:
    """Squared error of the states of two runs that share their noise, relative to the base's: float64 [T].

    States [T, ...] of denoising steps in order: embeddings, or logits. Shows whether errors accumulate over
    the steps (DLLMQuant, arXiv 2508.14090, figure 2) or stay as they are.
    """
    difference = (base.double() - quantized.double()).flatten(1).square().sum(1)
    return difference / base.double().flatten(1).square().sum(1).clamp(min=1e-300)


def mismatch_by_step(base: Tensor, quantized: Tensor) -> Tensor:
    """Share of tokens in which two runs that share their noise differ after each step: ids [T, ...] ->
    float64 [T]."""
    return (base != quantized).flatten(1).double().mean(1)
