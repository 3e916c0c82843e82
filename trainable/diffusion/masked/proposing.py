"""From a backbone's logits to one proposed token for each masked position, and how sure
the model is of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainable.models.prediction import probabilities

Score = Literal["confidence", "margin", "entropy"]
CHUNK = 1 << 24
"""Values of a [N, V] table that are worked on at a time: bounds the memory of draws in float64."""


class Proposals(NamedTuple):
    """[N] each: the token; its score (higher is surer); its probability before temperature."""

    values: Tensor
    scores: Tensor
    sureness: Tensor


def propose(log_probs: Tensor, u: Tensor, temperature: float, top_p: float, score: Score) -> Proposals:
    """One token for each of the N log-posteriors [N, V], drawn by the uniform numbers u [N].

    Scores are of the posterior itself: a temperature changes what is drawn and not how sure
    the model is of it.
    """
    rows = max(1, CHUNK // max(1, log_probs.shape[1]))
    parts = [_propose(part, noise, temperature, top_p, score)
             for part, noise in zip(log_probs.split(rows), u.split(rows), strict=True)]
    return Proposals(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _propose(log_probs: Tensor, u: Tensor, temperature: float, top_p: float, score: Score) -> Proposals:
    values = draw(log_probs, u, temperature, top_p)
    sure = log_probs.gather(1, values[:, None])[:, 0].exp()
    if score == "confidence":
        return Proposals(values, sure, sure)
    chance = probabilities(log_probs)
    if score == "entropy":
        return Proposals(values, -torch.special.entr(chance).sum(1), sure)
    best = chance.topk(min(2, chance.shape[1]), dim=1).values
    return Proposals(values, best[:, 0] - best[:, 1:].sum(1), sure)


def draw(log_probs: Tensor, u: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """[N] tokens by inversion of the cumulative distribution in float64 (in float32, rare tokens would
    never come; the same reason why LLaDA draws Gumbel noise in float64). Temperature 0: the likeliest.
    `top_p`: the nucleus only."""
    if temperature == 0:
        return log_probs.argmax(1)
    tempered = (log_probs.double() / temperature).softmax(1)
    if top_p < 1:
        tempered = tempered.masked_fill(outside(tempered, top_p), 0.0)
    total = tempered.cumsum(1)
    # Strictly above u: a token without any chance is never met.
    return (total <= (u[:, None] * total[:, -1:])).sum(1).clamp(max=log_probs.shape[1] - 1)


def outside(chances: Tensor, top_p: float) -> Tensor:
    """[N, V] bool: tokens that are not among the likeliest ones of this total probability."""
    ordered, order = chances.sort(1, descending=True)
    cut = ordered.cumsum(1) - ordered >= top_p
    return torch.zeros_like(cut).scatter(1, order, cut)
