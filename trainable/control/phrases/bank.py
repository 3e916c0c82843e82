"""Phrases from a bank: words that training text showed in such a bracket are placed, early, and the rest is
filled in around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from trainable import registry
from trainable.control.constituents import Constituents, Rows, nodes_of
from trainable.control.controllers import counted
from trainable.control.layouts import FREE, Layout
from trainable.control.oracles.base import Span
from trainable.control.phrases.base import Part, PhrasePlan
from trainable.control.syntax import FLOOR, tag_weights
from trainable.models.prediction import probabilities

if TYPE_CHECKING:
    from trainable.control.base import ControlTask


class Bank(PhrasePlan):
    """Words that text showed as such a phrase are placed: a phrase as a whole; a whole tree bracket by
    bracket, the surest first."""

    name = "bank"

    class Params(registry.Params):
        """How rows of words are drawn."""

        temperature: float = Field(0.5, gt=0, le=10, description="of the draw among rows; below 1: the "
                                                                 "likelier ones")
        sweeps: int = Field(1, ge=0, le=100, description="times that the words of each bracket of a tree are "
                                                         "masked and drawn again, given all others")

    params: Params

    @property
    def sweeps(self) -> int:
        """Of the parameters."""
        return self.params.sweeps

    def parts(self, layout: Layout, task: ControlTask, power: float) -> list[Part]:
        """Of a whole tree a part for each bracket with words of its own, and so of a row of tags by its
        likeliest tree, where rules give it one; else the widest phrases."""
        bank, warm = task.constituents(), self.params.temperature
        if bank is None:
            return []
        made: list[Part] = []
        if tree := _tree(layout, bank):
            for node in nodes_of(tree):
                rows = bank.node(node, layout.tags) if node.own else None
                if rows is not None:
                    made.append(Words(rows, torch.tensor(node.own) + 1, rows.lift, power, warm))
            return made
        covered: list[tuple[int, int]] = []
        for first, last, label in sorted(layout.spans, key=lambda span: span[0] - span[1]):
            rows = bank.phrases.get((label, last - first + 1))
            inside = any(a <= last and first <= b for a, b in covered)
            if rows is not None and not inside and last + 3 <= len(layout.prompt):
                made.append(Phrase(rows, first, counted(task).tag_given_word, power, warm))
                covered.append((first, last))
        return made


def _tree(layout: Layout, bank: Constituents) -> Sequence[Span] | None:
    """All brackets of a text, where its target says or implies them."""
    if layout.complete:
        return layout.spans
    parsed = bank.grammar.parse(layout.tags) if layout.tags else None
    return parsed if parsed is not None and set(layout.spans) <= set(parsed) else None


class Words(Part):
    """One of some rows of words [K, n] at n positions `at`, which `weight` [K] prefers (log)."""

    def __init__(self, rows: Rows, at: Tensor, weight: Tensor, power: float, temperature: float):
        self.rows, self.at, self.weight = rows, at, weight
        self.power, self.temperature = power, temperature
        self._placed: Tensor | None = None

    def draw(self, layout: Layout, log_probs: Tensor, generator: torch.Generator) -> None:
        """By weight and the model's probability of the words there, those that fit what the text keeps;
        none where none does."""
        likely = self._likely(layout, log_probs)
        if likely is None:
            return
        self._place(layout, int(torch.multinomial(likely.softmax(0), 1, generator=generator)))

    def lift(self, layout: Layout) -> None:
        """Frees its positions."""
        if self._placed is not None:
            layout.prompt[self._placed] = FREE
            self._placed = None

    def unsureness(self, layout: Layout, log_probs: Tensor) -> float:
        """Entropy of the draw."""
        likely = self._likely(layout, log_probs)
        return 0.0 if likely is None else float(torch.special.entr(likely.softmax(0)).sum())

    def _likely(self, layout: Layout, log_probs: Tensor) -> Tensor | None:
        """[K] logits of the draw."""
        kept = layout.prompt[self.at]
        fits = ((kept == FREE) | (kept == self.rows.ids)).all(1)
        if not fits.any():
            return None
        likely = self._score(log_probs) + self.weight
        if layout.weights is not None:  # what other targets of the text want here
            likely = likely + self.power * layout.weights[self.at, self.rows.ids].sum(1)
        return likely.masked_fill(~fits, -torch.inf) / self.temperature

    def _score(self, log_probs: Tensor) -> Tensor:
        return log_probs[self.at, self.rows.ids].sum(1)

    def _place(self, layout: Layout, row: int) -> None:
        self._placed = self.at[layout.prompt[self.at] == FREE]
        layout.prompt[self.at] = self.rows.ids[row]


class Phrase(Words):
    """A phrase from word `first` on. Its neighbors are drawn with it, as tags, and their words then
    weigh more."""

    def __init__(self, rows: Rows, first: int, share: Tensor, power: float, temperature: float):
        """`share` [V, tags]: tags of words."""
        size = rows.ids.shape[1]
        super().__init__(rows, torch.arange(first + 1, first + 1 + size), rows.share, power, temperature)
        self.share, self.sides = share, torch.tensor([first, first + 1 + size])
        self._added: Tensor | None = None

    def _score(self, log_probs: Tensor) -> Tensor:
        """p(here) / p(anywhere) of the words and of the neighbors' tags: how frequent a word is has gone into
        the share of the row."""
        here = probabilities(log_probs)
        usual = here.mean(0)
        words = log_probs[self.at, self.rows.ids] - usual.clamp(min=FLOOR).log()[self.rows.ids]
        tags = (here @ self.share).clamp(min=FLOOR).log()[self.sides, self.rows.neighbors]
        return words.sum(1) + (tags - (usual @ self.share).clamp(min=FLOOR).log()[self.rows.neighbors]).sum(1)

    def _place(self, layout: Layout, row: int) -> None:
        super()._place(layout, row)
        self._added = tag_weights(self.share, self.rows.neighbors[row])
        for side, weights in zip(self.sides.tolist(), self._added, strict=True):
            layout.weigh(side, weights[None])

    def lift(self, layout: Layout) -> None:
        """And takes the neighbors' weights off."""
        super().lift(layout)
        if self._added is not None:
            for side, weights in zip(self.sides.tolist(), self._added, strict=True):
                layout.weigh(side, -weights[None])
            self._added = None
