"""Control by construction: prompts that fix how long a text is, or what stands around a gap, and how
likely each choice is.

A prompt holds ids that are kept and -1 where the text is free. A row is kept well-formed while it is
filled in, so a fixed END makes the number of words exact, and a fixed context stands word for word,
at no extra pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spaces.errors import UserError
from trainable.corpora.tokenized import END, PAD, START
from trainable.diffusion.masked import layout
from trainable.models.masked_lm.backbone import MaskedLM

FREE = -1


def of_length(words: Sequence[int], length: int) -> Tensor:
    """[n, length] prompts of texts with exactly `words` words each. Raises `UserError` for a number
    that does not fit."""
    prompt = torch.full((len(words), length), PAD)
    for row, count in zip(prompt, words, strict=True):
        _fits(count, length)
        row[0], row[1:count + 1], row[count + 1] = START, FREE, END
    return prompt


def at_most(words: int, n: int, length: int) -> Tensor:
    """[n, length] prompts of texts with at most `words` words: what lies behind them and END is PAD."""
    _fits(words, length)
    prompt = torch.full((n, length), PAD)
    prompt[:, 0], prompt[:, 1:words + 2] = START, FREE
    return prompt


def with_gap(left: Sequence[int], right: Sequence[int], gap: int, length: int) -> Tensor:
    """[length] prompt: START, the words of `left`, `gap` free words, those of `right`, END, PAD. Raises
    `UserError` where they do not fit."""
    words = len(left) + gap + len(right)
    _fits(words, length)
    row = [START, *left, *[FREE] * gap, *right, END, *[PAD] * (length - words - 2)]
    return torch.tensor(row)


def continued(left: Sequence[int], length: int) -> Tensor:
    """[length] prompt: START, the words of `left`, and a free text behind them."""
    _fits(len(left), length)
    return torch.tensor([START, *left, *[FREE] * (length - len(left) - 1)])


@torch.no_grad()
def length_log_probs(model: MaskedLM, prompts: Tensor) -> Tensor:
    """[n, L] log-probability that a text has 0, 1, .. L - 1 words, given a prompt [n, L]: the model's
    chance of END at each free place, normalized. One pass. `ends: drawn` draws from this law."""
    ids = torch.where(prompts < 0, model.mask_id, prompts)
    masked = prompts < 0
    log_probs = torch.full(prompts.shape, -torch.inf, device=ids.device)
    said = layout.forbid(model(ids, masked).float().log_softmax(-1), masked, layout.allowed(ids, masked))
    log_probs[masked] = said[:, END]
    words = torch.full_like(log_probs, -torch.inf)
    words[:, :-1] = log_probs[:, 1:]
    return words.log_softmax(-1)


@torch.no_grad()
def gap_log_probs(model: MaskedLM, left: Sequence[int], right: Sequence[int], gaps: Sequence[int],
                  length: int) -> Tensor:
    """[len(gaps)] log p(a gap of that many words, then `right`, then END | `left`), nats, by the chain
    rule over END and the words of `right` from the last to the first; the words of the gap are summed over,
    since they stay masked.

    Normalized over `gaps` this is the posterior of the gap's length: len(right) + 1 passes for
    all gaps together.
    """
    device = next(model.parameters()).device
    ids = torch.full((len(gaps), length), model.mask_id, device=device)
    ids[:, :len(left) + 1] = torch.tensor([START, *left], device=device)
    total = torch.zeros(len(gaps), dtype=torch.float64, device=device)
    rows = torch.arange(len(gaps), device=device)
    ends = torch.tensor([len(left) + gap + len(right) + 1 for gap in gaps], device=device)
    for gap in gaps:
        _fits(len(left) + gap + len(right), length)
    for back, token in enumerate([END, *reversed(right)]):
        at = torch.zeros_like(ids, dtype=torch.bool)
        at[rows, ends - back] = True
        total += model(ids, at).float().log_softmax(-1)[:, token].double()
        ids[rows, ends - back] = token
        if token == END:  # PAD behind END says nothing more
            ids = torch.where(torch.arange(length, device=device) > ends[:, None], PAD, ids)
    return total


def _fits(words: int, length: int) -> None:
    if not 0 <= words <= length - 2:
        raise UserError(f"{words} words do not fit: rows of {length} positions hold 0 to {length - 2}")
