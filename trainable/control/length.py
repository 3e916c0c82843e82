"""Control of the number of words."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.control.base import ControlTask, Target, TaskParams
from trainable.control.layouts import Layout
from trainable.control.lexicon import AnyCorpus, Lexicon
from trainable.control.target_files import Entry
from trainable.corpora.base import UNKNOWN, Split
from trainable.corpora.tokenized import END, SPECIALS, TokenizedCorpus
from trainable.models.prediction import Prediction, log_sum

SURE = 1e-20
"""Probability of a word from which its logarithm is exact: what it is the sum of is e^-70 at least."""


def word_log_prob(prediction: Prediction, words: Tensor, inside: Tensor) -> Tensor:
    """[B, L] log-probability that a position holds a word that is known, and not a mark or UNK; 0 where it is
    not `inside` [B, L]. `words` [V]: 1 for those that count."""
    found = torch.where(inside, prediction.probs @ words, 1.0)
    if bool((found > SURE).all()):
        return found.log()
    return log_sum(prediction.log_probs[..., len(SPECIALS):]) * inside


class _Asked(NamedTuple):
    """Of targets, for log-posteriors [B, L, V]: where that of END stands in a flat row [B, 1], which
    positions hold words [B, L] bool, how many [B], at least 1, and which of the vocabulary are words [V]."""

    end: Tensor
    inside: Tensor
    lengths: Tensor
    words: Tensor


def _asked(targets: list[Target], like: Tensor) -> _Asked:
    lengths = torch.tensor([target["length"] for target in targets], device=like.device)
    size, vocabulary = like.shape[1:]
    if int(lengths.max()) + 1 >= size:
        raise ValueError(f"length {int(lengths.max())} does not fit into {size} positions")
    positions = torch.arange(size, device=like.device)
    inside = (positions >= 1) & (positions <= lengths[:, None])
    words = (torch.arange(vocabulary, device=like.device) >= len(SPECIALS)).to(like.dtype)
    return _Asked((lengths[:, None] + 1) * vocabulary + END, inside, lengths.clamp(min=1), words)


class Length(ControlTask):
    """A given number of words, punctuation counted as the corpus cuts it; within 2 is a success,
    as published."""

    name = "length"

    class Params(TaskParams):
        """`tolerance`: how many words off is still a success."""

        tolerance: int = Field(2, ge=0, description="how many words off is still a success")

    params: Params
    _held: tuple[list[Target], torch.Size, _Asked] | None = None

    def target(self, corpus: TokenizedCorpus, split: Split, row: int,
               generator: torch.Generator) -> Target | None:
        """The row's own length, so that lengths are asked for as often as they occur."""
        return {"length": int(corpus.lengths(split)[row])}

    def entry(self, entry: Entry, corpus: TokenizedCorpus, generator: torch.Generator) -> Target:
        """`14`, or `{"length": 14}`."""
        value = self.size(entry)
        entry.fits(value, int(corpus.ids("valid").shape[1]))
        return {"length": value}

    def said(self, target: Target) -> str:
        """`12 words`."""
        return f"{target['length']} words"

    def size(self, entry: Entry) -> int:
        """The length."""
        value = entry.get("length") if isinstance(entry.value, dict) else entry.value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{entry.where}: length should be a whole number above 0, not {value!r}")
        return value

    def loss(self, prediction: Prediction, targets: list[Target], corpus: AnyCorpus) -> Tensor:
        """-log p(END right after the last word) - mean over the positions before of log p(a word).

        The first word stands at position 1, behind START. Under the published form (squared error between
        the predicted latent and END) only the first term exists; the second keeps an earlier END or PAD from
        ending the sentence, and as a mean it weighs as much for long sentences as for short ones.
        """
        held, log_probs = self._held, prediction.log_probs
        # guidance comes back with the same list at every step
        if held is None or held[0] is not targets or held[1] != log_probs.shape:
            self._held = held = targets, log_probs.shape, _asked(targets, log_probs)
        asked = held[2]
        words = word_log_prob(prediction, asked.words, asked.inside).sum(1) / asked.lengths
        return -log_probs.flatten(1).gather(1, asked.end)[:, 0] - words

    def layout(self, target: Target, length: int, corpus: AnyCorpus) -> Layout:
        """END behind the last word: exact."""
        return Layout.of_length(target["length"], length)

    def symbols(self, lexicon: Lexicon) -> list[str]:
        """Inside the text, at its end, behind it."""
        return ["length word", "length end", "length after"]

    def condition(self, target: Target, positions: int) -> list[list[str]]:
        """Which positions hold words."""
        length = target["length"]
        return [["", *["length word"] * length, "length end", *["length after"] * (positions - length - 2)]]

    def score(self, words: list[str], target: Target) -> dict[str, float]:
        """`success`: at most `tolerance` words off; `exact`: no word off; `off`: how many. UNK is
        a word or none, whichever is further off."""
        off = max(abs(count - target["length"]) for count in (len(words), len(words) - words.count(UNKNOWN)))
        return {"success": float(off <= self.params.tolerance), "exact": float(off == 0), "off": float(off)}

    def oracle(self, target: Target) -> str:
        """Counting."""
        return "count"

    def code(self, target: Target) -> list[str]:
        """One symbol per length."""
        return [f"<length {target['length']}>"]

    def keys(self, lexicon: Lexicon) -> list[str]:
        """Only `length`."""
        return ["length"]

    def parse(self, key: str, value: str, lexicon: Lexicon) -> Target:
        """`length=14`. The model's positions bound it: START and END take two."""
        longest = lexicon.max_length - 2
        if not value.isdecimal() or not 1 <= int(value) <= longest:
            raise UserError(f"control length={value}: the length must be a whole number from 1 to {longest}")
        return {"length": int(value)}
