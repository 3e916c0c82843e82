"""Phrases by their tags: words of a tag row that text showed as such a phrase weigh more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainable.control.controllers import counted
from trainable.control.layouts import Layout
from trainable.control.oracles.base import Span
from trainable.control.phrases.base import Part, PhrasePlan
from trainable.control.syntax import FLOOR, tag_weights
from trainable.models.prediction import probabilities

if TYPE_CHECKING:
    from trainable.control.base import ControlTask


class TagRows(PhrasePlan):
    """A row of tags that text showed as such a phrase, with both neighbors', is drawn by how often it did and
    by the model's view of the place; words weigh as often as they carry their tag."""

    name = "tags"
    at_once = True

    def parts(self, layout: Layout, task: ControlTask, power: float) -> list[Part]:
        """For the widest phrases that text showed; rows that hold the phrases inside them first."""
        if not layout.spans:
            return []
        syntax, covered, made = counted(task), list[Span](), list[Part]()
        spans = sorted(layout.spans, key=lambda span: span[0] - span[1])
        for first, last, label in spans:
            if (not syntax.known(label, last - first + 1) or last + 3 > len(layout.prompt)
                    or any(a <= first and last <= b for a, b, _ in covered)):
                continue
            inside = [span for span in spans
                      if first <= span[0] and span[1] <= last and span != (first, last, label)]
            tags, share = syntax.rows(label, last - first + 1)
            made.append(TagRow(first, tags, share + syntax.explained(tags, first, inside),
                               syntax.tag_given_word))
            covered.append((first, last, label))
        return made


class TagRow(Part):
    """One of the tag rows [K, n] from position `first` on, which text shows as often as `weight` [K] says
    (log); `share` [V, tags]: tags of words."""

    def __init__(self, first: int, tags: Tensor, weight: Tensor, share: Tensor):
        self.first, self.tags, self.weight, self.share = first, tags, weight, share
        self._added: Tensor | None = None

    def draw(self, layout: Layout, log_probs: Tensor, generator: torch.Generator) -> None:
        """The model's view of a place counts by how far it differs from its view of all places,
        p(tag here) / p(tag): how frequent a tag is anyway has gone into `weight`."""
        everywhere = probabilities(log_probs) @ self.share
        here = everywhere[self.first:self.first + self.tags.shape[1]].clamp(min=FLOOR).log()
        usual = everywhere.mean(0).clamp(min=FLOOR).log()
        likely = (here[torch.arange(self.tags.shape[1]), self.tags] - usual[self.tags]).sum(1) + self.weight
        drawn = self.tags[int(torch.multinomial(likely.softmax(0), 1, generator=generator))]
        self._added = tag_weights(self.share, drawn)
        layout.weigh(self.first, self._added)

    def lift(self, layout: Layout) -> None:
        """Takes its weights off again."""
        if self._added is not None:
            layout.weigh(self.first, -self._added)
            self._added = None
