"""How a rounded model behaves along a generation, beside its base: what it would commit otherwise, how long
it doubts what is committed, and whether its errors grow."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from trainable.diffusion.rollouts import Rollout, rollout
from trainable.metrics.base import Measurable, Metric, scaled
from trainable.metrics.kl_to_base import base_of
from trainable.models.backbone import Backbone
from trainable.quantization.post_training.divergence import error_by_step, stability_lag
from trainable.quantization.sites import at_rest

MOST_ROWS = 64
"""Generations that are looked at, at most: every step of each is kept."""
QUARTERS = (0.25, 0.5, 0.75)
"""Shares of the steps at which the accumulated error has a column."""


class _Pair(NamedTuple):
    base: Rollout
    """Of the base, by its first choices."""
    ours: Tensor
    """[T, R, L] the model's first choices in the base's states."""
    theirs: Tensor
    """The same of the base."""


class _OfCommits(Metric):
    """What is read from the base's commits; nothing where the base is not known."""

    ideal = 0.0
    asked = True

    def measure(self, m: Measurable) -> dict[str, float]:
        """Columns of one pair of choices."""
        base = base_of(m)
        if base is None:
            return {}
        own = _rolled(m, base, "commits", first_choice=True)
        return self.told(_Pair(own, _choices(m.model, own), _choices(base, own)))

    @abstractmethod
    def told(self, pair: _Pair) -> dict[str, float]:
        """The columns."""


class CommitFlips(_OfCommits):
    """Share of the base's commits that the model would not have made in the same state.

    Along generations of the base by its first choices: in random order from masks, or as the sampler goes
    from noise (FAIR-Calib, arXiv 2606.06547).
    """

    name, unit, direction = "commit_flips", "share", "minimize"

    def told(self, pair: _Pair) -> dict[str, float]:
        """`commit_flips` and its `_se` over generations."""
        base = pair.base
        at = base.committed.clamp(0, len(pair.ours) - 1)
        chosen = pair.ours.gather(0, at[None])[0]
        free = base.committed >= 0
        rows = ((chosen != base.final) & free).double().sum(1)
        mean = float(rows.sum() / free.sum())
        error = float((rows - mean * free.sum(1)).square().sum().sqrt() / free.sum())
        return {"commit_flips": mean, "commit_flips_se": error}


class StabilityLagMetric(_OfCommits):
    """Steps after a commit until the model's first choice is the committed token for good, mean.

    The steps are those of the base's generations, so that lags are paired; `_base` is the base's own lag,
    `_never` the share of commits whose token is the model's first choice in none of the later steps
    (FAIR-Calib, arXiv 2606.06547).
    """

    name, unit, direction = "stability_lag", "steps", "minimize"

    def told(self, pair: _Pair) -> dict[str, float]:
        """Nothing where no step follows a commit."""
        ours, theirs = (stability_lag(each, pair.base.committed, pair.base.final)
                        for each in (pair.ours, pair.theirs))
        if not len(ours.steps):
            return {}
        return {"stability_lag": float(ours.steps.double().mean()), "stability_lag_never": ours.never,
                "stability_lag_disagree": float(ours.disagree.mean()),
                "stability_lag_base": float(theirs.steps.double().mean())}


class ErrorByStep(Metric):
    """Squared error of the expected clean latents at the last denoising step, relative to the base's.

    Both models generate by themselves, from the same noise: `_first`, `_25`, `_50` and `_75` are the same at
    the first step and at quarters of the steps, `_growth` is last over first, the accumulation curve of
    DLLMQuant (arXiv 2508.14090, figure 2) in one number.
    """

    name, unit, direction = "error_by_step", "share", "minimize"
    ideal = 0.0
    asked = True

    def measure(self, m: Measurable) -> dict[str, float]:
        """Nothing where the base is not known."""
        base = base_of(m)
        if base is None:
            return {}
        theirs, ours = (_rolled(m, each, "error_by_step") for each in (base, m.model))
        curve = error_by_step(theirs.guesses, ours.guesses)
        last = len(curve) - 1
        found = {"error_by_step": float(curve[last]), "error_by_step_first": float(curve[0])}
        found |= {f"error_by_step_{round(100 * share)}": float(curve[round(share * last)])
                  for share in QUARTERS}
        if curve[0] > 0:
            found["error_by_step_growth"] = float(curve[last] / curve[0])
        return found


def _rolled(m: Measurable, model: Backbone, purpose: str, first_choice: bool = False) -> Rollout:
    count = min(MOST_ROWS, scaled(m.config.evaluation.samples, m.share))
    with at_rest(model):
        return rollout(model, m.process, m.config.sampling, count, m.config.corpus.max_length,
                       m.generator(purpose), first_choice)


def _choices(model: Backbone, own: Rollout) -> Tensor:
    """[T, R, L] first choices of the network itself in given states, of tokens that are seen too."""
    with at_rest(model):
        return torch.stack([model.first_choices(state.state, state.t, state.previous)
                            for state in own.states])
