"""What a sampler of masked diffusion decides: which masked positions take their token in a pass,
which go back to MASK.

A rule sees one row at a time: counts, scores and random numbers of a row never mix with those of its
neighbors (Dream's own quota is a mean over the batch, so that a text there changes with the batch it is in).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from trainable import registry
from trainable.diffusion.masked.streams import uniforms
from trainable.registry import Rule

Score = Literal["confidence", "margin", "entropy"]


@dataclass(frozen=True)
class Step:
    """What a rule may look at, for the B rows that are at work.

    `open` [B, L]: masked positions that may be filled now; `left` [B]: passes left to fill them, this one
    included, of `steps`; `scores` [B, L]: how sure the model is of its proposal there (`Sampler.score`),
    None in `plan`; `seeds` [B] and `number` give a row its random numbers; `fixed` [B, L]: what is never
    masked again; `sureness` [B, L]: probability of each token when it was put there.
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
        """[B] how many must be filled now so that even steps suffice: the open ones over the passes
        left, rounded up."""
        return -(-self.open.sum(1) // self.left)


class SamplerParams(registry.Params):
    """What every sampler takes."""

    ends: Literal["drawn", "ordered", "free"] = Field(
        "drawn",
        description="END. drawn: its place is drawn first, from the model's own posterior; ordered: END and "
        "PAD only where all to the left is filled; free: like any word, early where the model is sure")
    top_p: float = Field(1.0, gt=0, le=1,
                         description="tokens are drawn from the likeliest ones of this total probability")


class BlockParams(SamplerParams):
    """What samplers that may go block by block take."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("corpus.max_length", lambda length, own: own.block is None or length % own.block == 0,
             "is no multiple of sampling.sampler.block={block}; legal: a block that divides it, or null"),)

    block: int | None = Field(None, ge=1,
                              description="positions of a block; blocks are filled from left to right, and "
                                          "the row must divide into them. null: the whole row at once")


class Sampler(ABC):
    """One rule. `plan` may name the positions before the model is asked, which saves the pass where there
    are none; otherwise `choose` does when `score` is known."""

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
        """[B, L] bool positions to fill in this pass, whatever the model says; None: it depends
        on the scores."""
        return None

    @abstractmethod
    def choose(self, step: Step) -> Tensor:
        """[B, L] bool positions to fill, given the scores."""

    def remask(self, step: Step) -> Tensor | None:
        """[B, L] bool seen positions that become MASK after this pass (`open` are then the masked
        ones before it)."""
        return None
