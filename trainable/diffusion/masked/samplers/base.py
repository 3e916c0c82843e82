"""What a sampler of masked diffusion decides: which masked positions take their token in a pass,
which go back to MASK.

A rule sees one row at a time: counts, scores and random numbers of a row never mix with those of its
neighbors (Dream's own quota is a mean over the batch, so that a text there changes with the batch it is in).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from trainable import registry
from trainable.diffusion.masked.proposing import Proposals, Score, propose
from trainable.diffusion.masked.streams import VALUE, uniforms
from trainable.registry import Rule


@dataclass(frozen=True)
class Answer:
    """What the model said in a pass, for the B rows that are at work.

    `log_probs` [N, V]: posteriors of the N positions that `at` [B, L] marks, in row order; `seeds` [B] and
    `number` give a row its random numbers; `temperature` of the draws. `ask` gives the model's own
    log-posteriors [n, L, V] of rows [n, L], told and guided by nothing; `blank` [L] is a row of which nothing
    is known.
    """

    log_probs: Tensor
    at: Tensor
    seeds: Tensor
    number: int
    temperature: float
    ask: Callable[[Tensor], Tensor]
    blank: Tensor

    @property
    def random(self) -> Tensor:
        """[N] uniform numbers of the rows, one for each of the positions."""
        return uniforms(self.seeds, self.number, VALUE, self.at.shape[1])[self.at]


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


Ends = Literal["drawn", "joined", "ordered", "free"]


def ends_field(default: Ends) -> Any:
    """The parameter `ends`, which all samplers have and some begin elsewhere with."""
    return Field(default, description="END. drawn: its place is drawn first, from the model's own posterior; "
                 "joined: so, and the first words by the same pass, which does not know it; ordered: END and "
                 "PAD only where all to the left is filled; free: like any word, early where the model is "
                 "sure")


class SamplerParams(registry.Params):
    """What every sampler takes."""

    ends: Ends = ends_field("drawn")
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
    asks: ClassVar[bool] = False
    """Whether it asks the model of more than the texts at work, once for all of them."""

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

    def propose(self, answer: Answer) -> Proposals:
        """A token for each of the positions asked about, drawn as if they were independent."""
        return propose(answer.log_probs, answer.random, answer.temperature, self.params.top_p, self.score)

    @abstractmethod
    def choose(self, step: Step) -> Tensor:
        """[B, L] bool positions to fill, given the scores."""

    def remask(self, step: Step) -> Tensor | None:
        """[B, L] bool seen positions that become MASK after this pass (`open` are then the masked
        ones before it)."""
        return None
