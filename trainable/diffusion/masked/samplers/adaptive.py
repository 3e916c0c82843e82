"""As many tokens in a pass as are safe to fill at once."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from trainable.diffusion.masked.corruption import lowest
from trainable.diffusion.masked.samplers.base import BlockParams, Sampler, Step


class _Adaptive(Sampler):
    """As many as the rule finds safe: at least one, and at least what even steps need to end in time."""

    def choose(self, step: Step) -> Tensor:
        assert step.scores is not None, "it has no plan"
        order = torch.where(step.open, step.scores, -torch.inf).argsort(dim=1, descending=True, stable=True)
        sorted_scores = step.scores.double().gather(1, order)
        there = step.open.gather(1, order)
        safe = self.safe(sorted_scores, there) & there
        prefix = safe.long().cumprod(1).sum(1)
        return lowest(-step.scores, torch.maximum(prefix, step.quota), step.open)

    @abstractmethod
    def safe(self, scores: Tensor, there: Tensor) -> Tensor:
        """[B, L] bool for scores sorted from high to low, of which those `there` count: may
        it be filled, too?"""


class Threshold(_Adaptive):
    """All proposals of at least a given probability at once (Fast-dLLM, arXiv 2505.22618)."""

    name = "threshold"

    class Params(BlockParams):
        """The probability."""

        threshold: float = Field(0.9, gt=0, le=1, description="probability from which on a proposal is taken")

    params: Params

    def safe(self, scores: Tensor, there: Tensor) -> Tensor:
        """At or above the threshold."""
        return scores >= self.params.threshold


class Factor(_Adaptive):
    """The r surest at once while the r-th has probability at least 1 - factor / (r + 1) (Fast-dLLM,
    arXiv 2505.22618)."""

    name = "factor"

    class Params(BlockParams):
        """The factor."""

        factor: float = Field(1.0, gt=0, description="larger: more tokens at once")

    params: Params

    def safe(self, scores: Tensor, there: Tensor) -> Tensor:
        """Rank by rank."""
        rank = torch.arange(1, scores.shape[1] + 1, device=scores.device)
        return scores >= 1 - self.params.factor / (rank + 1)


class EntropyBound(_Adaptive):
    """The least entropies at once while all but the last sum to at most a bound (arXiv 2505.24857;
    DiffusionGemma)."""

    name = "entropy_bound"
    score = "entropy"

    class Params(BlockParams):
        """The bound. It caps what the tokens of one pass can tell about each other."""

        bound: float = Field(0.5, ge=0, description="nats; 0: one token a pass; DiffusionGemma: 0.1")

    params: Params

    def safe(self, scores: Tensor, there: Tensor) -> Tensor:
        """cumsum(H) - H_k <= bound; scores are -H."""
        entropy = torch.where(there, -scores, 0.0).clamp(min=0)
        return entropy.cumsum(1) - entropy <= self.params.bound
