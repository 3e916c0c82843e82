"""Samplers of masked diffusion: which masked positions take their token in a pass, and which go back to MASK.

A rule sees one row at a time: counts, scores and random numbers of a row never mix with those of its neighbors (Dream's
own quota is a mean over the batch, so that a text there changes with the batch it is in).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainable import registry
from trainable.diffusion.masked.config import ScheduleName
from trainable.diffusion.masked.corruption import lowest
from trainable.diffusion.masked.schedule import Schedule
from trainable.diffusion.masked.streams import ORDER, REMASK, uniforms

Score = Literal["confidence", "margin", "entropy"]


@dataclass(frozen=True)
class Step:
    """What a rule may look at, for the B rows that are at work.

    `open` [B, L]: masked positions that may be filled now; `left` [B]: passes left to fill them, this one included, of
    `steps`; `scores` [B, L]: how sure the model is of its proposal there (`Sampler.score`), None in `plan`; `seeds` [B]
    and `number` give a row its random numbers; `fixed` [B, L]: what is never masked again; `sureness` [B, L]:
    probability of each token when it was put there.
    """

    open: Tensor
    left: Tensor
    steps: int
    seeds: Tensor
    number: int
    scores: Tensor | None = None
    fixed: Tensor | None = None
    sureness: Tensor | None = None

    def random(self, purpose: int) -> Tensor:
        """[B, L] uniform numbers of the rows, for this step and purpose."""
        return uniforms(self.seeds, self.number, purpose, self.open.shape[1])

    @property
    def times(self) -> tuple[Tensor, Tensor]:
        """t and s [B]: times before and after this pass, evenly spaced from 1 to 0 (float64)."""
        return self.left.double() / self.steps, (self.left.double() - 1) / self.steps

    @property
    def quota(self) -> Tensor:
        """[B] how many must be filled now so that even steps suffice: the open ones over the passes left, rounded up."""
        return -(-self.open.sum(1) // self.left)


class SamplerParams(registry.Params):
    """What every sampler takes."""

    ends: Literal["drawn", "ordered", "free"] = Field(
        "drawn", description="END. drawn: its place is drawn first, from the model's own posterior; ordered: END and PAD "
                             "only where all to the left is filled; free: like any word, early where the model is sure")
    top_p: float = Field(1.0, gt=0, le=1, description="tokens are drawn from the likeliest ones of this total probability")


class BlockParams(SamplerParams):
    """What samplers that may go block by block take."""

    block: int | None = Field(None, ge=1, description="positions of a block; blocks are filled from left to right, and "
                                                      "the row must divide into them. null: the whole row at once")


class Sampler(ABC):
    """One rule. `plan` may name the positions before the model is asked, which saves the pass where there are none;
    otherwise `choose` does when `score` is known."""

    name: ClassVar[str]
    Params: ClassVar[type[SamplerParams]] = BlockParams
    score: Score = "confidence"
    remasks: ClassVar[bool] = False

    def __init__(self, params: SamplerParams):
        self.params = params

    @property
    def block(self) -> int | None:
        """Positions of a block; None: no blocks."""
        return getattr(self.params, "block", None)

    def plan(self, step: Step) -> Tensor | None:
        """[B, L] bool positions to fill in this pass, whatever the model says; None: it depends on the scores."""
        return None

    @abstractmethod
    def choose(self, step: Step) -> Tensor:
        """[B, L] bool positions to fill, given the scores."""

    def remask(self, step: Step) -> Tensor | None:
        """[B, L] bool seen positions that become MASK after this pass (`open` are then the masked ones before it)."""
        return None


class Ancestral(Sampler):
    """Each masked token is filled by chance, as the forward process run backwards has it (MDLM, arXiv 2406.07524)."""

    name = "ancestral"

    class Params(BlockParams):
        """`schedule`: how the chances are spread over the steps."""

        schedule: ScheduleName = Field("linear", description="linear: as many in each step; cosine: few at first")

    def plan(self, step: Step) -> Tensor:
        """Fills with chance 1 - share(s) / share(t); everything in the last step."""
        leaves = Schedule(self.params.schedule).leaves(*step.times)
        return step.open & (step.random(ORDER) < leaves[:, None])

    def choose(self, step: Step) -> Tensor:
        """As planned."""
        return self.plan(step)


class Quota(Sampler):
    """As many in each step as it takes to finish in time, the surest first or at random (LLaDA, arXiv 2502.09992; Dream)."""

    name = "quota"

    class Params(BlockParams):
        """Which go first, and how many."""

        order: Literal["confidence", "margin", "entropy", "random"] = Field(
            "confidence", description="confidence: probability of the proposal; margin: best minus second best; entropy: "
                                      "the lowest; random: the law that the model is trained under")
        schedule: ScheduleName = Field("linear", description="linear: as many in each step; cosine: few at first")
        set_temperature: float = Field(
            0.0, ge=0, description="above 0 the set is drawn, by softmax(score / set_temperature), without replacement")

    def __init__(self, params: Params):
        super().__init__(params)
        if params.order != "random":
            self.score = params.order

    def plan(self, step: Step) -> Tensor | None:
        """A random set needs no scores."""
        if self.params.order != "random":
            return None
        return lowest(step.random(ORDER), self._count(step), step.open)

    def choose(self, step: Step) -> Tensor:
        """The highest scores; with a set temperature, scores with Gumbel noise (a draw without replacement)."""
        scores = step.scores
        if scores is None:
            return self.plan(step)
        if self.params.set_temperature:
            scores = scores / self.params.set_temperature - (-step.random(ORDER).clamp(min=1e-300).log()).log()
        return lowest(-scores, self._count(step), step.open)

    def _count(self, step: Step) -> Tensor:
        if self.params.schedule == "linear":
            return step.quota
        share = Schedule(self.params.schedule).leaves(*step.times)
        return (step.open.sum(1) * share).round().long().clamp(min=1)


class _Adaptive(Sampler):
    """As many as the rule finds safe: at least one, and at least what even steps need to end in time."""

    def choose(self, step: Step) -> Tensor:
        order = torch.where(step.open, step.scores, -torch.inf).argsort(dim=1, descending=True, stable=True)
        sorted_scores = step.scores.double().gather(1, order)
        there = step.open.gather(1, order)
        safe = self.safe(sorted_scores, there) & there
        prefix = safe.long().cumprod(1).sum(1)
        return lowest(-step.scores, torch.maximum(prefix, step.quota), step.open)

    @abstractmethod
    def safe(self, scores: Tensor, there: Tensor) -> Tensor:
        """[B, L] bool for scores sorted from high to low, of which those `there` count: may it be filled, too?"""


class Threshold(_Adaptive):
    """All proposals of at least a given probability at once (Fast-dLLM, arXiv 2505.22618)."""

    name = "threshold"

    class Params(BlockParams):
        """The probability."""

        threshold: float = Field(0.9, gt=0, le=1, description="probability from which on a proposal is taken")

    def safe(self, scores: Tensor, there: Tensor) -> Tensor:
        """At or above the threshold."""
        return scores >= self.params.threshold


class Factor(_Adaptive):
    """The r surest at once while the r-th has probability at least 1 - factor / (r + 1) (Fast-dLLM, arXiv 2505.22618)."""

    name = "factor"

    class Params(BlockParams):
        """The factor."""

        factor: float = Field(1.0, gt=0, description="larger: more tokens at once")

    def safe(self, scores: Tensor, there: Tensor) -> Tensor:
        """Rank by rank."""
        rank = torch.arange(1, scores.shape[1] + 1, device=scores.device)
        return scores >= 1 - self.params.factor / (rank + 1)


class EntropyBound(_Adaptive):
    """The least entropies at once while all but the last sum to at most a bound (arXiv 2505.24857; DiffusionGemma)."""

    name = "entropy_bound"
    score = "entropy"

    class Params(BlockParams):
        """The bound. It caps what the tokens of one pass can tell about each other."""

        bound: float = Field(0.5, ge=0, description="nats; 0: one token a pass; DiffusionGemma: 0.1")

    def safe(self, scores: Tensor, there: Tensor) -> Tensor:
        """cumsum(H) - H_k <= bound; scores are -H."""
        entropy = torch.where(there, -scores, 0.0).clamp(min=0)
        return entropy.cumsum(1) - entropy <= self.params.bound


class ReMDM(Sampler):
    """Ancestral steps that also hide some tokens again, so that early mistakes can be mended (arXiv 2503.00307)."""

    name = "remdm"
    remasks = True

    class Params(SamplerParams):
        """How likely a seen token is hidden again."""

        strategy: Literal["cap", "rescale", "confidence", "loop"] = Field(
            "cap", description="cap: at most eta; rescale: eta times what the process allows; confidence: the unsure ones "
                               "rather; loop: eta while t_off < t <= t_on, at a constant share of masks")
        eta: float = Field(0.02, ge=0, le=1, description="0: plain ancestral sampling")
        t_on: float = Field(0.55, gt=0, le=1, description="loop: time at which hiding begins")
        t_off: float = Field(0.05, ge=0, lt=1, description="loop: time at which it ends")
        alpha_on: float = Field(0.9, gt=0, lt=1, description="loop: share of seen tokens meanwhile")

    def plan(self, step: Step) -> Tensor:
        """A masked token is filled with chance (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)."""
        alpha_t, alpha_s, sigma = self._levels(step)
        if self.params.strategy == "confidence":  # sigma is a seen token's; where nothing is seen it is 0
            sigma = torch.zeros_like(sigma)
        fills = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t).clamp(min=1e-12)
        fills = torch.where(step.left == 1, 1.0, fills)
        return step.open & (step.random(ORDER) < fills[:, None])

    def choose(self, step: Step) -> Tensor:
        """As planned."""
        return self.plan(step)

    def remask(self, step: Step) -> Tensor:
        """A seen token is hidden with chance sigma; `confidence`: sigma spread by softmax(-probability when filled)."""
        sigma = self._levels(step)[2]
        seen = ~step.open & ~step.fixed
        chance = sigma[:, None].expand(seen.shape)
        if self.params.strategy == "confidence":
            unsure = torch.where(seen, -step.sureness.double(), -torch.inf).softmax(1).nan_to_num(0.0)
            chance = chance * unsure
        return seen & (step.random(REMASK) < chance) & (step.left > 1)[:, None]

    def _levels(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """alpha at t and s, and sigma; [B] each."""
        t, s = step.times
        own = self.params
        if own.strategy == "loop":
            return self._loop(t, s)
        alpha_t, alpha_s = 1 - t, 1 - s
        most = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1)
        if own.strategy == "rescale":
            return alpha_t, alpha_s, own.eta * most
        return alpha_t, alpha_s, (most if own.strategy == "confidence" and own.eta else most.clamp(max=own.eta))

    def _loop(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From 1 to t_on alpha goes from 0 to alpha_on, stays there until t_off, and goes on to 1."""
        own = self.params

        def alpha(time: Tensor) -> Tensor:
            early = own.alpha_on * (1 - time) / max(1 - own.t_on, 1e-12)
            late = 1 - (1 - own.alpha_on) * time / max(own.t_off, 1e-12)
            return torch.where(time > own.t_on, early, torch.where(time > own.t_off, own.alpha_on, late))
        alpha_t, alpha_s = alpha(t), alpha(s)
        most = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1)
        looping = (t <= own.t_on) & (t > own.t_off)
        return alpha_t, alpha_s, torch.where(looping, most.clamp(max=own.eta), 0.0)
