"""How well a controller tells, from a noisy latent, whether a text meets a target: one figure per noise
level, any task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainable.control.base import ControlTask, Target
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.gaussian.sampling import GaussianSampling
from trainable.quantization.sites import frozen_weights

FAILS = 0.5  # a text with less success than this is one that does not meet the target


@torch.no_grad()
def ranking_accuracy(task: ControlTask, sampling: GaussianSampling,
                     corpus: TokenizedCorpus, targets: Sequence[Target],
                     times: Sequence[int], generator: torch.Generator) -> list[float]:
    """For each time, how often the loss at x_t is lower for the target's own held-out text than for
    another that fails.

    0.5 is chance, ties count half. `task.prepare` must have been called; each target needs its `row`.
    The other text is the first of a random order that fails; targets that every text meets are left out.
    """
    ids = corpus.ids("valid")
    asked: list[Target] = []
    own: list[int] = []
    others: list[int] = []
    order = torch.randperm(len(ids), generator=generator).tolist()
    for i, target in enumerate(targets):
        for other in order[i:] + order[:i]:
            if task.score(corpus.decode(ids[other]), target)["success"] < FAILS:
                asked.append(target)
                own.append(target["row"])
                others.append(other)
                break
    found = []
    sampling.model.eval()
    with frozen_weights(sampling.model):
        for time in times:
            losses = []
            for rows in (own, others):
                words = torch.from_numpy(np.asarray(ids[rows], dtype=np.int64))
                words = words.to(next(sampling.model.parameters()).device)
                t = torch.full((len(asked),), time, device=words.device)
                x_t = sampling.noised(words, t, generator)
                guess = sampling.predict(x_t, t, None).x0 if sampling.model.params.self_conditioning else None
                losses.append(task.loss(sampling.predict(x_t, t, guess), asked, corpus))
            better = (losses[0] < losses[1]).double() + 0.5 * (losses[0] == losses[1]).double()
            found.append(float(better.mean()))
    return found
