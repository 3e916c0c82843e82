"""Text under control: one sentence per target, guided, the best of several candidates where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spaces.config import GuidanceConfig
from trainable.control.base import ControlTask, Target
from trainable.control.conditions import encode_conditions
from trainable.control.guidance import GradientGuide
from trainable.control.infill import bleu4
from trainable.control.lexicon import AnyCorpus
from trainable.control.reweighting import reweighted
from trainable.diffusion.process import Sampling

BATCH = 64  # latents guided at once: bounds memory


class Controlled(NamedTuple):
    """One text per target, in order: its `words`, and the forward `passes` [n] that it took, those of
    candidates that were not kept and of repairs among them."""

    words: list[list[str]]
    passes: Tensor


def guided(sampling: Sampling, task: ControlTask, targets: Sequence[Target], config: GuidanceConfig,
           corpus: AnyCorpus, length: int, generator: torch.Generator) -> list[list[str]]:
    """The words of `controlled`."""
    return controlled(sampling, task, targets, config, corpus, length, generator).words


def controlled(sampling: Sampling, task: ControlTask, targets: Sequence[Target], config: GuidanceConfig,
               corpus: AnyCorpus, length: int, generator: torch.Generator) -> Controlled:
    """One sentence per target. `task.prepare` must have been called; `length` is in positions.

    With `candidates` above 1, that many are generated for each target and one is kept by minimum Bayes risk.
    """
    config = task.guidance(config)
    condition = None
    if config.by in ("classifier_free", "both"):
        condition = encode_conditions(task, targets, sampling.model.symbols, length)
    each, total = config.candidates, sampling.steps
    wanted = [target for target in targets for _ in range(each)]
    words: list[list[str]] = []
    passes: list[Tensor] = []
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start:start + BATCH]
        if config.by == "reweight":
            found = reweighted(sampling, task, batch, config, corpus, length, generator)
            words += [corpus.decode(row) for row in found.ids.tolist()]
            passes.append(found.passes.cpu())
            continue
        guide = None if config.by == "classifier_free" else GradientGuide(task, batch, config, corpus, total)
        under = sampling
        if condition is not None:
            under = sampling.under(condition.repeat_interleave(each, 0)[start:start + BATCH], config.scale)
        found = under.generate(len(batch), length, generator, guide)
        words += [corpus.decode(row) for row in found.ids.tolist()]
        passes.append(found.passes.cpu())
    taken = torch.cat(passes).view(-1, each).sum(1) if passes else torch.zeros(0, dtype=torch.long)
    if each > 1:
        words = [least_risk(words[i:i + each]) for i in range(0, len(words), each)]
    return Controlled(words, taken)


def least_risk(candidates: Sequence[list[str]]) -> list[str]:
    """The candidate with the highest mean BLEU-4 against the others, the first of equals
    (Diffusion-LM, section 4.3).

    The released utility is another BLEU: add-one smoothing at every order, case folded, the candidate in
    the place of the reference and the others in that of the hypothesis; of equals the last. It can pick
    another candidate.
    """
    if len(candidates) < 2:
        return candidates[0]

    def agreement(i: int) -> float:
        return sum(bleu4(list(candidates[i]), list(other)) for j, other in enumerate(candidates) if j != i)

    return candidates[max(range(len(candidates)), key=agreement)]
