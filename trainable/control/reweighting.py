"""Text under control without gradients: what a target fixes is kept, what it prefers weighs on the
posterior of each word.

For processes whose sampling takes a prompt and a guide (masked diffusion). Where something is left
to chance, rows that their oracle finds short of the target may be masked in part and filled in anew
(`evaluation.guidance.repairs`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spaces.config import GuidanceConfig
from trainable.control.base import ControlTask, Target
from trainable.control.layouts import FREE, Layout
from trainable.control.lexicon import AnyCorpus
from trainable.control.settling import Settler
from trainable.corpora.tokenized import END, PAD
from trainable.diffusion.guide import Rows, TokenGuide
from trainable.diffusion.process import Samples, Sampling

REMASKED = 0.5
"""Share of the free positions, and of the parts of phrases, that a repair fills in anew."""


def reweighted(sampling: Sampling, task: ControlTask, targets: Sequence[Target], config: GuidanceConfig,
               corpus: AnyCorpus, length: int, generator: torch.Generator) -> Samples:
    """One text per target, with all passes that it took. `task.prepare` must have been called."""
    layouts = [task.layout(target, length, corpus) for target in targets]
    begins = None if corpus.tokens is None else torch.from_numpy(corpus.tokens.starts)
    settler = Settler(sampling, task, layouts, config, generator, begins)
    settler.settle()
    prompt = torch.stack([each.prompt for each in layouts])
    ids, passes = sampling.generate(len(layouts), length, generator, _guide(layouts, config.power, begins),
                                    prompt)
    for _ in range(config.repairs):
        score = [task.score(corpus.decode(row), target)["success"]
                 for row, target in zip(ids.tolist(), targets, strict=True)]
        short = torch.tensor([i for i, value in enumerate(score) if value < 1])
        if not len(short):
            break
        again = torch.rand(len(short), length, generator=generator) < REMASKED
        kept = torch.where(again & (prompt[short] == FREE), FREE, ids[short].cpu())
        some = [layouts[i] for i in short.tolist()]
        for each, row in zip(some, _open_end(kept, prompt[short]), strict=True):
            each.prompt = row
        settler.redraw(short.tolist(), REMASKED)
        fresh = sampling.generate(len(short), length, generator, _guide(some, config.power, begins),
                                  torch.stack([each.prompt for each in some]))
        passes[short.to(passes.device)] += fresh.passes
        for i, row in zip(short.tolist(), fresh.ids, strict=True):
            if task.score(corpus.decode(row.tolist()), targets[i])["success"] > score[i]:
                ids[i] = row
    return Samples(ids, passes + settler.passes.to(passes.device))


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
