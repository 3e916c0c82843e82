"""Text under control without gradients: what a target fixes is kept, what it prefers weighs on the
posterior of each word.

For processes whose sampling takes a prompt and a guide (masked diffusion). Where something is left
to chance, rows that their oracle finds short of the target may be masked in part and filled in anew
(`evaluation.guidance.repairs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from spaces.config import GuidanceConfig
from trainable.control.base import ControlTask, Target
from trainable.control.controllers import counted
from trainable.control.layouts import FREE, Layout
from trainable.control.lexicon import AnyCorpus
from trainable.control.syntax import FLOOR, tag_weights
from trainable.corpora.tokenized import END, PAD
from trainable.diffusion.guide import Rows, TokenGuide
from trainable.diffusion.process import Samples, Sampling

if TYPE_CHECKING:
    from trainable.models.masked_lm.backbone import MaskedLM

REMASKED = 0.5
"""Share of the free positions that a repair fills in anew."""


def reweighted(sampling: Sampling, task: ControlTask, targets: Sequence[Target], config: GuidanceConfig,
               corpus: AnyCorpus, length: int, generator: torch.Generator) -> Samples:
    """One text per target, with all passes that it took. `task.prepare` must have been called."""
    layouts = [task.layout(target, length, corpus) for target in targets]
    begins = None if corpus.tokens is None else torch.from_numpy(corpus.tokens.starts)
    before = _settle(sampling, task, layouts, config.power, generator, begins)
    prompt = torch.stack([each.prompt for each in layouts])
    guide = _guide(layouts, config.power, begins)
    ids, passes = sampling.generate(len(layouts), length, generator, guide, prompt)
    passes = passes + before.to(passes.device)
    for _ in range(config.repairs):
        score = [task.score(corpus.decode(row), target)["success"]
                 for row, target in zip(ids.tolist(), targets, strict=True)]
        short = torch.tensor([i for i, value in enumerate(score) if value < 1])
        if not len(short):
            break
        again = torch.rand(len(short), length, generator=generator) < REMASKED
        kept = torch.where(again & (prompt[short] == FREE), FREE, ids[short].cpu())
        kept = _open_end(kept, prompt[short])
        guide = _guide([layouts[i] for i in short.tolist()], config.power, begins)
        fresh = sampling.generate(len(short), length, generator, guide, kept)
        passes[short.to(passes.device)] += fresh.passes
        for i, row in zip(short.tolist(), fresh.ids, strict=True):
            if task.score(corpus.decode(row.tolist()), targets[i])["success"] > score[i]:
                ids[i] = row
    return Samples(ids, passes)


def _open_end(kept: Tensor, prompt: Tensor) -> Tensor:
    """Where the target does not fix END, a text that is filled in anew may end elsewhere."""
    free = (prompt == FREE) & ((kept == END) | (kept == PAD))
    return torch.where(free, FREE, kept)


class LayoutGuide(TokenGuide):
    """Adds each text's own weights to its log-posterior; where ids are not words, forbids what begins no word
    where one is to begin."""

    def __init__(self, layouts: Sequence[Layout], power: float, begins: Tensor | None):
        """`power`: of the weights. `begins` [V] bool: tokens that begin a word; None where each is one."""
        size = next((each.weights.shape for each in layouts if each.weights is not None), None)
        self.weights = None if size is None else power * torch.stack(
            [torch.zeros(size) if each.weights is None else each.weights for each in layouts])
        self.words, self.begins = torch.stack([each.words for each in layouts]), begins

    def __call__(self, log_probs: Tensor, rows: Rows) -> Tensor:
        """See `TokenGuide`."""
        device = log_probs.device
        if self.weights is not None:
            log_probs = log_probs + self.weights.to(device)[rows.rows]
        if self.begins is None:
            return log_probs
        here = self.words.to(device)[rows.rows]
        return log_probs.masked_fill(here[..., None] & ~self.begins.to(device), -torch.inf)


def _guide(layouts: Sequence[Layout], power: float, begins: Tensor | None) -> LayoutGuide | None:
    """None where there is nothing to add and nothing to forbid."""
    if begins is None and all(each.weights is None for each in layouts):
        return None
    return LayoutGuide(layouts, power, begins)


@torch.no_grad()
def _settle(sampling: Sampling, task: ControlTask, layouts: Sequence[Layout], power: float,
            generator: torch.Generator, begins: Tensor | None) -> Tensor:
    """Draw where phrases stand and which tag rows are aimed at, by what the model finds likely and
    the weights prefer. One pass, where needed: how many [n] each text took."""
    passes = torch.tensor([int(bool(each.phrases or each.patterns)) for each in layouts])
    chosen = [each for each in layouts if each.phrases or each.patterns]
    if not chosen:
        return passes
    device = next(sampling.model.parameters()).device
    rows = torch.stack([each.prompt for each in chosen]).to(device)
    training = sampling.model.training
    sampling.model.eval()
    rows = torch.where(rows == FREE, cast("MaskedLM", sampling.model).mask_id, rows)
    posterior = sampling.model.predict(rows, torch.zeros(len(rows), device=device)).log_probs.cpu()
    sampling.model.train(training)
    for each, log_probs in zip(chosen, posterior, strict=True):
        for first, tags, weight in each.patterns:
            _aim(each, task, first, tags, weight, log_probs, generator)
        if each.phrases:
            weighed = log_probs if each.weights is None else log_probs + power * each.weights
            _place(each, weighed, generator, begins)
    return passes


def _place(layout: Layout, log_probs: Tensor, generator: torch.Generator, begins: Tensor | None) -> None:
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


def _aim(layout: Layout, task: ControlTask, first: int, tags: Tensor, weight: Tensor, log_probs: Tensor,
         generator: torch.Generator) -> None:
    """Draw one of the tag rows [K, n] that may stand from position `first` on, and prefer words
    of its tags there.

    `weight` [K] says how often text has each. The model's view of a place counts by how far it differs from
    its view of all places, p(tag here) / p(tag): how frequent a tag is anyway has gone into `weight`.
    """
    share = counted(task).tag_given_word
    everywhere = log_probs.exp() @ share
    here = everywhere[first:first + tags.shape[1]].clamp(min=FLOOR).log()
    usual = everywhere.mean(0).clamp(min=FLOOR).log()
    likely = (here[torch.arange(tags.shape[1]), tags] - usual[tags]).sum(1) + weight
    drawn = tags[int(torch.multinomial(likely.softmax(0), 1, generator=generator))]
    if layout.weights is None:
        layout.weights = torch.zeros(len(layout.prompt), len(share))
    layout.weights[first:first + len(drawn)] += tag_weights(share, drawn)
