"""Asking the backbone: the posterior of masked positions, guided and cut to what a row may hold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainable.diffusion.guide import TokenGuide
from trainable.diffusion.masked import layout
from trainable.diffusion.masked.corruption import State
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.prediction import probabilities
from trainable.models.traced import Traces


@dataclass(frozen=True)
class Request:
    """What is asked of the backbone for each row, and how tokens are drawn."""

    steps: int
    temperature: float = 1.0
    guide: TokenGuide | None = None
    scale: float = 0.0
    """Classifier-free guidance: log p = (1 + scale) log p(told) - scale log p(untold), normalized (arXiv
    2412.10193, equation 8, with gamma = 1 + scale). 0: as told, one pass instead of two."""
    structured: bool = True
    """Rows read START words END PAD... and are kept well-formed."""
    traces: Traces | None = None
    """Of the backbone, where it runs as graphs; `compat.as_traced` is entered then."""

    def passes(self, condition: Tensor | None) -> int:
        """Forward passes for one look."""
        return 1 if condition is None or self.scale == 0 else 2


@dataclass
class Rows:
    """The rows that are at work. All tensors have them as first dimension."""

    ids: Tensor
    masked: Tensor
    fixed: Tensor
    seeds: Tensor
    rows: Tensor
    left: Tensor
    block: Tensor
    sureness: Tensor
    passes: Tensor
    previous: Tensor | None = None
    condition: Tensor | None = None

    def take(self, index: Tensor) -> Rows:
        """Some of them."""
        parts: dict[str, Any] = {
            field.name: None if (value := getattr(self, field.name)) is None else value[index]
            for field in dataclasses.fields(self)}
        return Rows(**parts)


def look(backbone: MaskedLM, rows: Rows, at: Tensor, request: Request, number: int) -> tuple[Tensor, Tensor]:
    """Log-posteriors [N, V] of the positions in the second result [B, L]: `at`; all masked ones for
    a guide, which may look at a row as a whole, and with self-conditioning, where each of them feeds
    the next guess."""
    feeds = backbone.params.self_conditioning
    at = rows.masked if feeds or request.guide is not None else at
    log_probs = _posterior(backbone, rows, at, request.scale, request.traces)
    if feeds:
        guess = backbone.expected(probabilities(log_probs))
        rows.previous = guess.new_zeros((*at.shape, guess.shape[-1]))
        rows.previous[at] = guess
    if request.structured:
        log_probs = layout.forbid(log_probs, at, layout.allowed(rows.ids, rows.masked))
    if request.guide is not None:
        log_probs = _guided(request.guide, log_probs, at, rows, number)
    return log_probs, at


def plain(backbone: MaskedLM, ids: Tensor) -> Tensor:
    """[n, L, V] log-posteriors of rows [n, L] by the backbone alone: told nothing, guided by nothing,
    nothing guessed before."""
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    return _logits(backbone, None, ids, everywhere, None, None).log_softmax(-1).view(*ids.shape, -1)


def _posterior(backbone: MaskedLM, rows: Rows, at: Tensor, scale: float,
               traces: Traces | None = None) -> Tensor:
    """[N, V], normalized; with a condition as classifier-free guidance has it."""
    if rows.condition is None or scale == 0:
        return _logits(backbone, traces, rows.ids, at, rows.previous, rows.condition).log_softmax(-1)
    both = torch.cat([rows.condition, torch.zeros_like(rows.condition)])
    previous = None if rows.previous is None else torch.cat([rows.previous, rows.previous])
    logits = _logits(backbone, traces, torch.cat([rows.ids, rows.ids]), torch.cat([at, at]), previous, both)
    told, untold = logits.log_softmax(-1).chunk(2)
    mixed = (1 + scale) * told - scale * untold
    # inf - inf where MASK has a logit
    return mixed.masked_fill(told == -torch.inf, -torch.inf).log_softmax(-1)


def _logits(backbone: MaskedLM, traces: Traces | None, ids: Tensor, at: Tensor, previous: Tensor | None,
            condition: Tensor | None) -> Tensor:
    """The backbone's own, in float32; its body by a graph where there is one."""
    if traces is None:
        logits: Tensor = backbone(ids, at, previous, condition)
        return logits.float()
    given = [value for value in (previous, condition) if value is not None]
    fed, told = previous is not None, condition is not None

    def hidden(ids: Tensor, *given: Tensor) -> Tensor:
        return backbone.hidden(ids, None, given[0] if fed else None, given[-1] if told else None)

    key = ("hidden", ids.shape, fed, None if condition is None else condition.shape)
    return backbone.logits(traces.call(backbone, key, hidden, (ids, *given), 0)[at]).float()


def _guided(guide: TokenGuide, log_probs: Tensor, at: Tensor, rows: Rows, number: int) -> Tensor:
    dense = torch.full((*at.shape, log_probs.shape[1]), -torch.inf, device=at.device)
    dense.scatter_(2, rows.ids.masked_fill(rows.masked, 0)[..., None], 0.0)
    dense[at] = log_probs
    state = State(rows.ids, rows.masked, rows=rows.rows, step=number)
    result = guide(dense, state)[at].log_softmax(-1)
    if result.isnan().any():
        raise ValueError("guide: all tokens of a position were forbidden")
    return result
