"""Rows that read START words END PAD...: kept well-formed while they are filled in, in whatever order.

From the tokens that are seen, END can only stand in one stretch of masked positions: behind the last word,
before the first PAD. Words go before the last place of that stretch, PAD behind its first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spaces.errors import UserError
from trainable.corpora.tokenized import END, PAD, START


class Allowed(NamedTuple):
    """[B, L] bool each: what a masked position may become."""

    word: Tensor
    end: Tensor
    pad: Tensor


def is_mark(ids: Tensor) -> Tensor:
    """END or PAD."""
    return (ids == END) | (ids == PAD)


def last_word(ids: Tensor, seen: Tensor) -> Tensor:
    """[B] position of the last seen token that is no mark (START counts); -1 where there is none."""
    position = torch.arange(ids.shape[1], device=ids.device)
    return torch.where(seen & ~is_mark(ids), position, -1).amax(1)


def first_mark(ids: Tensor, seen: Tensor) -> Tensor:
    """[B] position of the first seen END or PAD; L where there is none."""
    position = torch.arange(ids.shape[1], device=ids.device)
    return torch.where(seen & is_mark(ids), position, ids.shape[1]).amin(1)


def allowed(ids: Tensor, masked: Tensor) -> Allowed:
    """What masked positions of rows [B, L] may become so that the row can still be finished well-formed."""
    seen = ~masked
    position = torch.arange(ids.shape[1], device=ids.device)
    ended = (seen & (ids == END)).any(1)
    low, mark = last_word(ids, seen) + 1, first_mark(ids, seen)
    high = torch.where(ended, mark, mark - 1)  # the last place where END may stand, or where it stands
    inside = (position >= low[:, None]) & (position <= high[:, None]) & ~ended[:, None]
    return Allowed(masked & (position < high[:, None]), masked & inside,
                   masked & ((inside & (position > low[:, None])) | (position > high[:, None])))


def forbid(log_probs: Tensor, at: Tensor, may: Allowed) -> Tensor:
    """[N, V] log-posteriors of the positions that `at` [B, L] marks -> the same without what they may not
    become, normalized. START is never an answer."""
    log_probs = log_probs.clone()
    end, pad = log_probs[:, END].clone(), log_probs[:, PAD].clone()
    log_probs.masked_fill_(~may.word[at][:, None], -torch.inf)
    log_probs[:, START] = -torch.inf
    log_probs[:, END] = end.masked_fill(~may.end[at], -torch.inf)
    log_probs[:, PAD] = pad.masked_fill(~may.pad[at], -torch.inf)
    normal = log_probs.log_softmax(-1)
    # A posterior that gives all that is allowed no chance at all (in float32): any of it will do.
    return torch.where(normal.isnan(), _any_of(may, at, log_probs.shape[1]).to(normal.dtype), normal)


def _any_of(may: Allowed, at: Tensor, vocabulary: int) -> Tensor:
    open_ = may.word[at][:, None].expand(-1, vocabulary).clone()
    open_[:, START], open_[:, END], open_[:, PAD] = False, may.end[at], may.pad[at]
    return torch.where(open_, 0.0, -torch.inf).log_softmax(-1)


def settle(ids: Tensor, masked: Tensor, chosen: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Put `values` [B, L] at the `chosen` positions of rows `ids`; returns the new ids and masked.

    Each value alone is allowed; together they may clash. Then words win: an END or PAD to the left of a word
    of the same step stays masked. Behind the first END or PAD everything is PAD at once, which costs no pass.
    """
    seen = ~masked
    end_of_words = torch.maximum(last_word(ids, seen), last_word(values, chosen))
    position = torch.arange(ids.shape[1], device=ids.device)
    chosen = chosen & masked & ~(is_mark(values) & (position < end_of_words[:, None]))
    ids, masked = torch.where(chosen, values, ids), masked & ~chosen
    mark = first_mark(ids, ~masked)
    tail = position > mark[:, None]
    ids, masked = torch.where(tail, PAD, ids), masked & ~tail
    # PAD right behind the last word: there is no room for END but there.
    here = (position == mark[:, None]) & (mark == end_of_words + 1)[:, None]
    return torch.where(here, END, ids), masked


def well_formed(ids: Tensor) -> Tensor:
    """[B] bool: (a prompt) START words END PAD..., nothing masked."""
    end = (ids == END).int()
    return ((end.sum(1) == 1) & (is_mark(ids).int().diff(dim=1) >= 0).all(1)
            & (end.argmax(1) == is_mark(ids).int().argmax(1)))


def check_template(template: Tensor, mask_id: int) -> None:
    """Raises `UserError` where what a template [n, L] keeps cannot be part of a well-formed row."""
    masked = template == mask_id
    seen = ~masked
    ended = (seen & (template == END)).sum(1)
    mark, word = first_mark(template, seen), last_word(template, seen)
    at_mark = template.gather(1, mark.clamp(max=template.shape[1] - 1)[:, None])[:, 0]
    wrong = ((word >= mark) | (ended > 1) | ((ended == 1) & (at_mark != END))
             | ((ended == 0) & (mark - 1 <= word)))
    if wrong.any():
        row = int(wrong.int().argmax())
        raise UserError(f"row {row} of the prompt keeps {template[row].tolist()}: no START words END PAD... "
                        "has that")
