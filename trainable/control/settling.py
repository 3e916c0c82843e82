"""What is drawn for a text before it is filled in: where a value stands, and the parts of a phrase plan.

The model looks at what is kept so far, and again as long as there is something left to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from spaces.config import GuidanceConfig
from trainable.control.base import ControlTask
from trainable.control.layouts import FREE, Layout
from trainable.control.phrases.base import Part
from trainable.corpora.tokenized import END
from trainable.diffusion.masked.streams import row_seeds
from trainable.diffusion.process import Sampling
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.quantization.sites import at_rest
from trainable.registry import PHRASES


class Settler:
    """Draws for some texts, each with random numbers of its own: what is drawn for one does not depend
    on the others."""

    def __init__(self, sampling: Sampling, task: ControlTask, layouts: Sequence[Layout],
                 config: GuidanceConfig, generator: torch.Generator, begins: Tensor | None):
        """`begins` [V] bool: tokens that begin a word; None where each is one. The generator is left alone
        where there is nothing to draw."""
        self.model, self.layouts = cast("MaskedLM", sampling.model), list(layouts)
        self.power, self.begins = config.power, begins
        self.plan = PHRASES.build(config.phrases)
        self.parts = [self.plan.parts(each, task, config.power) for each in layouts]
        self.passes = torch.zeros(len(self.layouts), dtype=torch.long)
        """[n] looks at each text."""
        self._generators: list[torch.Generator] = []
        if any(self.parts) or any(each.phrases for each in self.layouts):
            seeds = row_seeds(generator, torch.arange(len(self.layouts), device=generator.device))
            self._generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]

    def settle(self) -> None:
        """Draw everything, and the parts of each text in turn again as often as the plan says."""
        left = [list(parts) for parts in self.parts]
        with at_rest(self.model):
            self._draw(left, place=True)
            for _ in range(self.plan.sweeps):
                self._sweep()

    def redraw(self, which: Sequence[int], share: float) -> None:
        """Lift parts of some texts by chance, each with probability `share`, and draw them again."""
        left: list[list[Part]] = [[] for _ in self.layouts]
        for i in which:
            left[i] = [part for part in self.parts[i]
                       if float(torch.rand((), generator=self._generators[i])) < share]
            for part in left[i]:
                part.lift(self.layouts[i])
        with at_rest(self.model):
            self._draw(left)

    def _draw(self, left: list[list[Part]], place: bool = False) -> None:
        """Draw the parts that are `left` of each text; with `place` phrases find their places at the first
        look: behind parts that weigh, before parts that take places themselves."""
        while which := [i for i, parts in enumerate(left) if parts or place and self.layouts[i].phrases]:
            for i, log_probs in zip(which, self._look(which), strict=True):
                layout = self.layouts[i]
                if place and layout.phrases and not self.plan.at_once:
                    self._place(i, log_probs)
                taken = left[i] if self.plan.at_once else self._surest(i, left[i], log_probs)
                for part in taken:
                    part.draw(layout, log_probs, self._generators[i])
                left[i] = [part for part in left[i] if part not in taken]
                if place and layout.phrases and self.plan.at_once:
                    self._place(i, log_probs)
            place = False

    def _place(self, text: int, log_probs: Tensor) -> None:
        layout = self.layouts[text]
        weighed = log_probs if layout.weights is None else log_probs + self.power * layout.weights
        place_phrase(layout, weighed, self._generators[text], self.begins)

    def _surest(self, text: int, parts: list[Part], log_probs: Tensor) -> list[Part]:
        """One of the parts; none of none."""
        unsure = [part.unsureness(self.layouts[text], log_probs) for part in parts]
        return [parts[unsure.index(min(unsure))]] if parts else []

    def _sweep(self) -> None:
        orders = [torch.randperm(len(parts), generator=self._generators[i]).tolist() if len(parts) > 1 else []
                  for i, parts in enumerate(self.parts)]
        for turn in range(max(map(len, orders), default=0)):
            now = {i: self.parts[i][order[turn]] for i, order in enumerate(orders) if turn < len(order)}
            for i, part in now.items():
                part.lift(self.layouts[i])
            for (i, part), log_probs in zip(now.items(), self._look(list(now)), strict=True):
                part.draw(self.layouts[i], log_probs, self._generators[i])

    def _look(self, which: Sequence[int]) -> Tensor:
        """[len(which), L, V] log-posteriors of texts as they stand: one pass."""
        device = next(self.model.parameters()).device
        rows = torch.stack([self.layouts[i].prompt for i in which]).to(device)
        rows = torch.where(rows == FREE, self.model.mask_id, rows)
        self.passes[list(which)] += 1
        return self.model.predict(rows, torch.zeros(len(rows), device=device)).log_probs.cpu()


def place_phrase(layout: Layout, log_probs: Tensor, generator: torch.Generator,
                 begins: Tensor | None) -> None:
    """Fix one of the phrases at a place drawn by the product of its words' probabilities there. Where it has
    more tokens than words and the end of the text is fixed, that moves behind them, as far as there is
    room."""
    places = [(start, phrase) for phrase in layout.phrases for start in layout.places(len(phrase))]
    if not places:
        return
    likely = torch.stack([log_probs[start:start + len(phrase)].gather(1, torch.tensor(phrase)[:, None]).sum()
                          for start, phrase in places])
    start, phrase = places[int(torch.multinomial(likely.softmax(0), 1, generator=generator))]
    more = 0 if begins is None else int((~begins[phrase]).sum())
    layout.keep(start, phrase)
    ends = (layout.prompt == END).nonzero()[:, 0]
    if more and len(ends) and int(ends[0]) + more < len(layout.prompt):
        end = int(ends[0])
        layout.prompt[end:end + more], layout.prompt[end + more] = FREE, END
        layout.words[end:end + more] = True
