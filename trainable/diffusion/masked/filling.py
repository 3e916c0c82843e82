"""Filling in: from MASK, and whatever is given, to whole rows."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from spaces.errors import UserError
from trainable.corpora.tokenized import START
from trainable.diffusion.masked import layout
from trainable.diffusion.masked.looking import Request, Rows, look, plain
from trainable.diffusion.masked.proposing import Proposals, draw
from trainable.diffusion.masked.samplers.base import Answer, Sampler, Step
from trainable.diffusion.masked.streams import ENDS, uniforms
from trainable.diffusion.process import Samples
from trainable.models.masked_lm.backbone import MaskedLM


@torch.no_grad()
def generate(backbone: MaskedLM, sampler: Sampler, template: Tensor, seeds: Tensor, request: Request,
             condition: Tensor | None = None) -> Samples:
    """Fill the MASKs of `template` [n, L]; everything else is kept bit for bit.

    `seeds` [n]: where each row's random numbers come from; a row's tokens depend on its own seed, template
    and condition [n, K, L], and on no other row. Raises `UserError` for a template that no well-formed row
    has, and for blocks into which rows do not divide.
    """
    n, length = template.shape
    per_block = steps_per_block(sampler.block, length, request.steps)
    result, passes = template.clone(), torch.zeros(n, dtype=torch.long, device=template.device)
    masked = template == backbone.mask_id
    rows = Rows(template.clone(), masked, ~masked, seeds, torch.arange(n, device=template.device),
                 torch.full((n,), per_block, device=template.device),
                torch.full((n,), -1, device=template.device),
                 torch.ones(template.shape, device=template.device), passes.clone(),
                 _no_guess(backbone, template), condition)
    if request.structured:
        layout.check_template(template, backbone.mask_id)
        _settle(rows, torch.zeros_like(masked), rows.ids)
        if sampler.params.ends in ("drawn", "joined"):
            _draw_ends(backbone, sampler, rows, request, per_block)
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
        raise UserError(f"sampler block: {block} does not divide rows of {length} positions; "
                        f"what does: {fitting}")
    return -(-steps // (length // block))


def _one_step(backbone: MaskedLM, sampler: Sampler, rows: Rows, request: Request, steps: int,
              number: int, heard: Heard | None = None) -> None:
    """One pass; or, with what was `heard` in one already, what that tells without another."""
    active = _open_block(rows, sampler.block, steps)
    part = torch.ones_like(rows.left, dtype=torch.bool) if heard is None else heard.at.any(1)
    active = active & part[:, None]
    left = rows.left.clamp(min=1)  # words of one pass may clash and leave a position over: one pass more
    step = Step(active, left, steps, rows.seeds, number, fixed=rows.fixed, sureness=rows.sureness)
    planned = sampler.plan(step)
    wanted = active if planned is None else planned
    asked = wanted.any(1).nonzero()[:, 0]  # rows in which nothing is filled take no pass
    chosen, values = torch.zeros_like(active), rows.ids.clone()
    if len(asked):
        log_probs = (_ask(backbone, rows, asked, wanted, request, number)[0] if heard is None else
                     layout.forbid(heard.log_probs[wanted[heard.at]], wanted,
                                   layout.allowed(rows.ids, rows.masked)))
        some, wanted = rows.take(asked), wanted[asked]
        said = _proposals(backbone, sampler, some, wanted, log_probs, request, number)
        open_ = active[asked]
        if request.structured and sampler.params.ends == "ordered":
            open_ = open_ & _in_order(said.values, some.masked, left[asked])
        seeing = Step(open_, left[asked], steps, some.seeds, number, said.scores, some.fixed, some.sureness)
        taken = sampler.choose(seeing) if planned is None else planned[asked] & open_
        chosen[asked], values[asked] = taken, said.values
        rows.sureness[asked] = torch.where(taken, said.sureness, some.sureness)
    if request.structured:
        _settle(rows, chosen, values)
    else:
        rows.ids, rows.masked = torch.where(chosen, values, rows.ids), rows.masked & ~chosen
    again = sampler.remask(step)
    if again is not None:
        again = again & part[:, None]
        rows.ids, rows.masked = torch.where(again, backbone.mask_id, rows.ids), rows.masked | again
    rows.left = rows.left - part.long()


class Heard(NamedTuple):
    """Log-posteriors [N, V] of the positions `at` [B, L] of all rows at work."""

    log_probs: Tensor
    at: Tensor


def _ask(backbone: MaskedLM, rows: Rows, asked: Tensor, wanted: Tensor, request: Request,
         number: int) -> Heard:
    """One pass over the rows numbered `asked`; of the positions that are `wanted` [B, L]."""
    some, wanted = rows.take(asked), wanted[asked]
    log_probs, at = look(backbone, some, wanted, request, number)
    rows.passes[asked] += request.passes(rows.condition)
    if rows.previous is not None and some.previous is not None:
        rows.previous[asked] = some.previous
    everywhere = torch.zeros_like(rows.masked)
    everywhere[asked] = wanted
    return Heard(log_probs[wanted[at]], everywhere)


def _proposals(backbone: MaskedLM, sampler: Sampler, rows: Rows, at: Tensor, log_probs: Tensor,
               request: Request, number: int) -> Proposals:
    """[B, L] proposals at the masked positions `at` [B, L], of which `log_probs` [N, V] are; elsewhere
    the row's own tokens, with a score of -inf."""
    blank = torch.full_like(rows.ids[0], backbone.mask_id)
    if request.structured:
        blank[0] = START
    found = sampler.propose(Answer(log_probs, at, rows.seeds, number, request.temperature,
                                   partial(plain, backbone), blank))
    nowhere = torch.full(at.shape, -torch.inf, device=at.device, dtype=torch.float64)
    return Proposals(_placed(found.values, at, rows.ids), _placed(found.scores, at, nowhere),
                     _placed(found.sureness, at, rows.sureness))


def _open_block(rows: Rows, block: int | None, steps: int) -> Tensor:
    """[B, L] masked positions that may be filled: those of the block of the first masked one. A new
    block gets its steps."""
    if block is None:
        return rows.masked
    now = rows.masked.int().argmax(1) // block
    rows.left = torch.where(now == rows.block, rows.left, steps)
    rows.block = now
    return rows.masked & (torch.arange(rows.ids.shape[1], device=now.device) // block == now[:, None])


def _in_order(values: Tensor, masked: Tensor, left: Tensor) -> Tensor:
    """[B, L] bool: proposals that are no END or PAD, or have nothing masked to their left; all
    in the last pass."""
    first = masked & (masked.cumsum(1) == 1)
    return ~layout.is_mark(values) | first | (left == 1)[:, None]


def _draw_ends(backbone: MaskedLM, sampler: Sampler, rows: Rows, request: Request, steps: int) -> None:
    """Draw the place of END in rows that have none: proportional to the model's chance of END at each
    place where it may stand, one pass. This is the model's own law of lengths, whatever the order and
    temperature of the words. `ends: joined`: the first words are filled by the same pass."""
    may = layout.allowed(rows.ids, rows.masked).end
    asked = may.any(1).nonzero()[:, 0]
    if not len(asked):
        return
    heard = _ask(backbone, rows, asked, rows.masked if sampler.params.ends == "joined" else may, request, 0)
    ends = torch.full(may.shape, -torch.inf, device=may.device)
    ends[heard.at] = heard.log_probs[:, layout.END]
    ends = ends.masked_fill(~may, -torch.inf)[asked]
    ends = torch.where((ends > -torch.inf).any(1, keepdim=True), ends,
                       torch.where(may[asked], 0.0, -torch.inf))
    place = draw(ends, uniforms(rows.seeds[asked], 0, ENDS, 1)[:, 0])
    chosen = torch.zeros_like(rows.masked)
    chosen[asked, place] = True
    before = rows.masked
    _settle(rows, chosen, torch.full_like(rows.ids, layout.END))
    rows.fixed = rows.fixed | (before & ~rows.masked)
    if sampler.params.ends == "joined":
        _one_step(backbone, sampler, rows, request, steps, 0, heard)
        return
    rows.left[asked] = (rows.left[asked] - 1).clamp(min=1)


def _settle(rows: Rows, chosen: Tensor, values: Tensor) -> None:
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
