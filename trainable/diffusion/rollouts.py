"""Generations with every step kept: when each token was committed, how sure the model was, what it believed.

A masked model commits tokens in random order, the same number at every step, so that what is found does not
depend on a sampler's taste (FAIR-Calib, arXiv 2606.06547, probes so). Gaussian diffusion commits nothing; a
token counts as committed at the step from which on the model's first choice is the final one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spaces.config import SamplingConfig
from trainable.corpora.tokenized import START
from trainable.diffusion.process import Process
from trainable.diffusion.states import States, visited
from trainable.models.backbone import Backbone


class Rollout(NamedTuple):
    """T steps of R generations of L positions."""

    states: list[States]
    """[T] of R rows each: what the model was shown."""
    committed: Tensor
    """[R, L] int64: the step at which a token was committed, -1 where it was given."""
    final: Tensor
    """[R, L] ids."""
    guesses: Tensor
    """[T, R, L, d] the clean latents that the model expected at each step."""
    confidence: Tensor
    """[R, T, L] its largest probability of a token before each step."""

    @property
    def open(self) -> Tensor:
        """[R, T, L] bool: positions that were not committed before a step."""
        steps = torch.arange(len(self.states), device=self.committed.device)
        return self.committed[:, None] >= steps[:, None]


@torch.no_grad()
def rollout(model: Backbone, process: Process, config: SamplingConfig, count: int, length: int,
            generator: torch.Generator, first_choice: bool = False) -> Rollout:
    """`count` generations under the steps and the temperature of `config`. Equal generators give equal noise
    and orders, so that two models can be paired. `first_choice`: from masks, no token is drawn by chance."""
    mask = getattr(model, "mask_id", None)
    if mask is None:
        return _denoised(model, process, config, count, length, generator)
    device = next(model.parameters()).device
    ids = torch.full((count, length), int(mask), device=device)
    ids[:, 0] = START
    order = torch.rand(count, length - 1, generator=generator, device=generator.device).argsort(1).argsort(1)
    steps = min(config.steps, length - 1)
    committed = torch.full((count, length), -1, device=device)
    committed[:, 1:] = (order * steps // (length - 1)).to(device)
    previous: Tensor | None = None
    told = bool(getattr(model.params, "self_conditioning", False))
    states, guesses, confidence = [], [], []
    for step in range(steps):
        level = (ids == mask).float().mean(1)
        t = (level * process.levels).long().clamp(max=process.levels - 1)
        if told and previous is None:
            previous = torch.zeros_like(model.embed(ids))
        states.append(States(ids.clone(), t, level, ids == mask, previous if told else None))
        said = model.predict(ids, t, previous)
        assert said.x0 is not None
        guesses.append(said.x0)
        confidence.append(said.log_probs.amax(-1).exp())
        heat = 0.0 if first_choice else config.temperature
        u = torch.rand(said.log_probs.shape, generator=generator, device=generator.device).to(device)
        gumbel = -(-u.clamp(1e-12, 1 - 1e-7).log()).log()
        token = (said.log_probs + heat * gumbel).argmax(-1)
        ids = torch.where(committed == step, token, ids)
        previous = said.x0 if told else None
    return Rollout(states, committed, ids, torch.stack(guesses), torch.stack(confidence, 1))


def _denoised(model: Backbone, process: Process, config: SamplingConfig, count: int, length: int,
              generator: torch.Generator) -> Rollout:
    seen = visited(model, process, process.sampling(model, config), count, length, generator)
    states = seen.split(count)
    said = [model.predict(state.state, state.t, state.previous) for state in states]
    choice = torch.stack([each.log_probs.argmax(-1) for each in said])
    steps = torch.arange(len(choice), device=choice.device)[:, None, None]
    last_other = torch.where(choice != choice[-1], steps, -1).amax(0)
    confidence = torch.stack([each.log_probs.amax(-1).exp() for each in said], 1)
    guesses = torch.stack([each.x0 for each in said if each.x0 is not None])
    return Rollout(states, last_other + 1, choice[-1], guesses, confidence)
