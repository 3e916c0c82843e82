"""Filling in: from MASK, and whatever is given, to whole rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spaces.errors import UserError
from trainable.diffusion.masked import layout
from trainable.diffusion.masked.corruption import State
from trainable.diffusion.masked.proposing import draw, propose
from trainable.diffusion.masked.samplers import Sampler, Step
from trainable.diffusion.masked.streams import ENDS, VALUE, uniforms
from trainable.models.masked_lm.backbone import MaskedLM

Reweight = Callable[[Tensor, State], Tensor]
"""`reweight(log_probs, state) -> log_probs`: [B, L, V] log-posterior of each position, in which seen positions are sure of
their token. What comes back is normalized again; -inf forbids a token."""


class Samples(NamedTuple):
    """`ids` [n, L]; `passes` [n]: forward passes of the backbone that each row took part in (NFE)."""

    ids: Tensor
    passes: Tensor

    def nfe(self) -> dict[str, float]:
        """Mean and 95th percentile of the passes of a row."""
        passes = self.passes.double()
        return {"nfe": float(passes.mean()), "nfe_p95": float(passes.quantile(0.95))}


@dataclass(frozen=True)
class Request:
    """What is asked of the backbone for each row, and how tokens are drawn."""

    steps: int
    temperature: float = 1.0
    guide: Reweight | None = None
    scale: float = 0.0
    """Classifier-free guidance: log p = (1 + scale) log p(told) - scale log p(untold), normalized (arXiv 2412.10193,
    equation 8, with gamma = 1 + scale). 0: as told, one pass instead of two."""
    structured: bool = True
    """Rows read START words END PAD... and are kept well-formed."""

    def passes(self, condition: Tensor | None) -> int:
        """Forward passes for one look."""
        return 1 if condition is None or self.scale == 0 else 2


@dataclass
class _Rows:
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

    def take(self, index: Tensor) -> _Rows:
        """Some of them."""
        return _Rows(**{field.name: None if (value := getattr(self, field.name)) is None else value[index]
                        for field in dataclasses.fields(self)})


@torch.no_grad()
def generate(backbone: MaskedLM, sampler: Sampler, template: Tensor, seeds: Tensor, request: Request,
             condition: Tensor | None = None) -> Samples:
    """Fill the MASKs of `template` [n, L]; everything else is kept bit for bit.

    `seeds` [n]: where each row's random numbers come from; a row's tokens depend on its own seed, template and condition
    [n, K, L], and on no other row. Raises `UserError` for a template that no well-formed row has, and for blocks into which
    rows do not divide.
    """
    n, length = template.shape
    per_block = steps_per_block(sampler.block, length, request.steps)
    result, passes = template.clone(), torch.zeros(n, dtype=torch.long, device=template.device)
    masked = template == backbone.mask_id
    rows = _Rows(template.clone(), masked, ~masked, seeds, torch.arange(n, device=template.device),
                 torch.full((n,), per_block, device=template.device), torch.full((n,), -1, device=template.device),
                 torch.ones(template.shape, device=template.device), passes.clone(),
                 _no_guess(backbone, template), condition)
    if request.structured:
        layout.check_template(template, backbone.mask_id)
        _settle(rows, torch.zeros_like(masked), rows.ids)
        if sampler.params.ends == "drawn":
            _draw_ends(backbone, rows, request)
    number = 1
    while len(rows.ids):
        _one_step(backbone, sampler, rows, request, per_block, number)
        number += 1
        going = rows.masked.any(1) | (sampler.remasks & (rows.left > 0))
        if not going.all():
            done = ~going
            result[rows.rows[done]], passes[rows.rows[done]] = rows.ids[done], rows.passes[done]
            rows = rows.take(going.nonzero()[:, 0])
    return Samples(result, passes)


def steps_per_block(block: int | None, length: int, steps: int) -> int:
    """Passes that a block may take at most. Raises `UserError` where rows do not divide into blocks."""
    if block is None:
        return steps
    if length % block:
        fitting = [size for size in range(1, length + 1) if length % size == 0]
        raise UserError(f"sampler block: {block} does not divide rows of {length} positions; what does: {fitting}")
    return -(-steps // (length // block))


def _one_step(backbone: MaskedLM, sampler: Sampler, rows: _Rows, request: Request, steps: int, number: int) -> None:
    active = _open_block(rows, sampler.block, steps)
    left = rows.left.clamp(min=1)  # words of one pass may clash and leave a position over: one pass more
    step = Step(active, left, steps, rows.seeds, number, fixed=rows.fixed, sureness=rows.sureness)
    planned = sampler.plan(step)
    asked = (active if planned is None else planned).any(1).nonzero()[:, 0]
    chosen, values = torch.zeros_like(active), rows.ids.clone()
    if len(asked):
        some = rows.take(asked)
        log_probs, at = _look(backbone, some, active[asked] if planned is None else planned[asked], request, number)
        if rows.previous is not None:
            rows.previous[asked] = some.previous
        u = uniforms(some.seeds, number, VALUE, at.shape[1])[at]
        found = propose(log_probs, u, request.temperature, sampler.params.top_p, sampler.score)
        values[asked] = _placed(found.values, at, some.ids)
        scores = _placed(found.scores.double(), at, torch.full(at.shape, -torch.inf, device=at.device).double())
        sureness = _placed(found.sureness, at, some.sureness)
        open_ = active[asked]
        if request.structured and sampler.params.ends == "ordered":
            open_ = open_ & _in_order(values[asked], rows.masked[asked], left[asked])
        if planned is not None:
            chosen[asked] = planned[asked] & open_
        else:
            chosen[asked] = sampler.choose(Step(open_, left[asked], steps, some.seeds, number, scores, some.fixed,
                                                some.sureness))
        rows.sureness[asked] = torch.where(chosen[asked], sureness, some.sureness)
        rows.passes[asked] += request.passes(rows.condition)
    if request.structured:
        _settle(rows, chosen, values)
    else:
        rows.ids, rows.masked = torch.where(chosen, values, rows.ids), rows.masked & ~chosen
    again = sampler.remask(step)
    if again is not None:
        rows.ids, rows.masked = torch.where(again, backbone.mask_id, rows.ids), rows.masked | again
    rows.left = rows.left - 1


def _open_block(rows: _Rows, block: int | None, steps: int) -> Tensor:
    """[B, L] masked positions that may be filled: those of the block of the first masked one. A new block gets its steps."""
    if block is None:
        return rows.masked
    now = rows.masked.int().argmax(1) // block
    rows.left = torch.where(now == rows.block, rows.left, steps)
    rows.block = now
    return rows.masked & (torch.arange(rows.ids.shape[1], device=now.device) // block == now[:, None])


def _in_order(values: Tensor, masked: Tensor, left: Tensor) -> Tensor:
    """[B, L] bool: proposals that are no END or PAD, or have nothing masked to their left; all in the last pass."""
    first = masked & (masked.cumsum(1) == 1)
    return ~layout.is_mark(values) | first | (left == 1)[:, None]


def _look(backbone: MaskedLM, rows: _Rows, at: Tensor, request: Request, number: int) -> tuple[Tensor, Tensor]:
    """Log-posteriors [N, V] of the positions in the second result [B, L]: `at`, or with self-conditioning all masked
    ones, since each of them feeds the next guess."""
    feeds = backbone.params.self_conditioning
    at = rows.masked if feeds else at
    log_probs = _posterior(backbone, rows, at, request.scale)
    if feeds:
        guess = backbone.expected(log_probs.exp())
        rows.previous = guess.new_zeros((*at.shape, guess.shape[-1]))
        rows.previous[at] = guess
    if request.structured:
        log_probs = layout.forbid(log_probs, at, layout.allowed(rows.ids, rows.masked))
    if request.guide is not None:
        log_probs = _guided(request.guide, log_probs, at, rows, number)
    return log_probs, at


def _posterior(backbone: MaskedLM, rows: _Rows, at: Tensor, scale: float) -> Tensor:
    """[N, V], normalized; with a condition as classifier-free guidance has it."""
    if rows.condition is None or scale == 0:
        return backbone(rows.ids, at, rows.previous, rows.condition).float().log_softmax(-1)
    both = torch.cat([rows.condition, torch.zeros_like(rows.condition)])
    previous = None if rows.previous is None else torch.cat([rows.previous, rows.previous])
    logits = backbone(torch.cat([rows.ids, rows.ids]), torch.cat([at, at]), previous, both).float()
    told, untold = logits.log_softmax(-1).chunk(2)
    mixed = (1 + scale) * told - scale * untold
    return mixed.masked_fill(told == -torch.inf, -torch.inf).log_softmax(-1)  # inf - inf where MASK has a logit


def _guided(guide: Reweight, log_probs: Tensor, at: Tensor, rows: _Rows, number: int) -> Tensor:
    dense = torch.full((*at.shape, log_probs.shape[1]), -torch.inf, device=at.device)
    sure = rows.ids.clamp(max=log_probs.shape[1] - 1)  # a position that is masked and not looked at says nothing of use
    dense.scatter_(2, sure[..., None], 0.0)
    dense[at] = log_probs
    state = State(rows.ids, rows.masked, rows=rows.rows, step=number)
    result = guide(dense, state)[at].log_softmax(-1)
    if result.isnan().any():
        raise ValueError("guide: all tokens of a position were forbidden")
    return result


def _draw_ends(backbone: MaskedLM, rows: _Rows, request: Request) -> None:
    """Draw the place of END in rows that have none: proportional to the model's chance of END at each place where it may
    stand, one pass. This is the model's own law of lengths, whatever the order and temperature of the words."""
    may = layout.allowed(rows.ids, rows.masked).end
    asked = may.any(1).nonzero()[:, 0]
    if not len(asked):
        return
    some = rows.take(asked)
    log_probs, at = _look(backbone, some, may[asked], dataclasses.replace(request, structured=False), 0)
    ends = torch.full(at.shape, -torch.inf, device=at.device)
    ends[at] = log_probs[:, layout.END]
    ends = ends.masked_fill(~may[asked], -torch.inf)
    ends = torch.where((ends > -torch.inf).any(1, keepdim=True), ends, torch.where(may[asked], 0.0, -torch.inf))
    place = draw(ends, uniforms(some.seeds, 0, ENDS, 1)[:, 0])
    chosen = torch.zeros_like(rows.masked)
    chosen[asked, place] = True
    before = rows.masked
    _settle(rows, chosen, torch.full_like(rows.ids, layout.END))
    rows.fixed = rows.fixed | (before & ~rows.masked)
    rows.passes[asked] += request.passes(rows.condition)
    if rows.previous is not None:
        rows.previous[asked] = some.previous
    rows.left = (rows.left - 1).clamp(min=1)


def _settle(rows: _Rows, chosen: Tensor, values: Tensor) -> None:
    rows.ids, rows.masked = layout.settle(rows.ids, rows.masked, chosen, values)


def _placed(found: Tensor, at: Tensor, elsewhere: Tensor) -> Tensor:
    """[B, L]: `found` [N] at the positions of `at`, `elsewhere` at the others."""
    placed = elsewhere.clone()
    placed[at] = found.to(placed.dtype)
    return placed


def _no_guess(backbone: MaskedLM, template: Tensor) -> Tensor | None:
    """[n, L, hidden] zeros for a backbone with self-conditioning: nothing has been guessed yet."""
    if not backbone.params.self_conditioning:
        return None
    return torch.zeros((*template.shape, backbone.params.hidden), device=template.device)
