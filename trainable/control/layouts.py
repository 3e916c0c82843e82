"""What a control target fixes of a text, for processes whose state is words: kept tokens, phrases to
place, tag weights.

A process that keeps a prompt makes these exact at no extra pass: a length is the place of END, a context is
its words. What is not exact is a weight on the model's own posterior of each position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spaces.errors import UserError
from trainable.control.oracles.base import Span
from trainable.corpora.tokenized import END, PAD, START

FREE = -1


@dataclass
class Layout:
    """One target over `length` positions."""

    prompt: Tensor
    """[length] ids that are kept, `FREE` elsewhere."""
    phrases: list[list[int]] = field(default_factory=list)
    """One of these rows of word ids is to stand somewhere; none: nothing is."""
    weights: Tensor | None = None
    """[length, V] log-weights added to the posterior of free positions."""
    spans: list[Span] = field(default_factory=list)
    """Phrases that are to stand, first and last word and label, the text's first word being 0: what a
    `PhrasePlan` draws for."""
    complete: bool = False
    """Whether the spans are all brackets of the text."""
    tags: tuple[int, ...] | None = None
    """A tag for each word, by its number, where all are asked for."""
    words: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    """[length] bool: free positions at which a word begins, so that where positions are counted each holds
    one. It says nothing where ids are words; of a tokenizer's tokens, only those that begin a word may stand
    there."""

    def __post_init__(self) -> None:
        if not len(self.words):
            self.words = torch.zeros(len(self.prompt), dtype=torch.bool)

    @classmethod
    def free(cls, length: int) -> Layout:
        """A text of which nothing is asked."""
        prompt = torch.full((length,), FREE)
        prompt[0] = START
        return cls(prompt)

    @classmethod
    def of_length(cls, words: int, length: int) -> Layout:
        """Exactly so many words. Raises `UserError` where they do not fit."""
        if not 0 <= words <= length - 2:
            raise UserError(f"{words} words do not fit: texts of {length} positions hold 0 to {length - 2}")
        made = cls.free(length)
        made.prompt[words + 1], made.prompt[words + 2:] = END, PAD
        made.words[:words + 1] = True
        return made

    def keep(self, first: int, ids: Sequence[int]) -> None:
        """Fix words from a position on; behind them another begins."""
        self.prompt[first:first + len(ids)] = torch.tensor(list(ids), dtype=torch.long)
        self.words[first + len(ids):first + len(ids) + 1] = True

    def weigh(self, first: int, weights: Tensor) -> None:
        """Add log-weights [n, V] from a position on."""
        if self.weights is None:
            self.weights = torch.zeros(len(self.prompt), weights.shape[1])
        self.weights[first:first + len(weights)] += weights

    def count_words(self, upto: int) -> None:
        """Every position before `upto` holds one word."""
        self.words[:upto] = True

    def places(self, size: int) -> list[int]:
        """First positions at which `size` free words lie together, before the last place of END."""
        open_ = (self.prompt == FREE).tolist()
        last = len(open_) - 1 if END not in self.prompt.tolist() else len(open_)
        return [i for i in range(1, last - size + 1) if all(open_[i:i + size])]


def merged(parts: Sequence[Layout]) -> Layout:
    """Several targets of one text. Raises `UserError` where two fix one position differently."""
    first, *others = parts
    for other in others:
        both = (first.prompt != FREE) & (other.prompt != FREE)
        if (first.prompt[both] != other.prompt[both]).any():
            raise UserError("controls that fix the same position differently cannot be asked for together")
        first.prompt = torch.where(first.prompt == FREE, other.prompt, first.prompt)
        if first.phrases and other.phrases:
            raise UserError("two controls that each place a phrase cannot be asked for together")
        first.phrases = first.phrases or other.phrases
        first.spans = first.spans + other.spans
        first.complete = first.complete or other.complete
        first.tags = first.tags or other.tags
        first.words = first.words | other.words
        if other.weights is not None:
            first.weights = other.weights if first.weights is None else first.weights + other.weights
    return first
