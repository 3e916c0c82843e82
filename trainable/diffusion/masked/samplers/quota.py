"""A number of tokens in every pass."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from trainable.diffusion.masked.config import ScheduleName
from trainable.diffusion.masked.corruption import lowest
from trainable.diffusion.masked.samplers.base import BlockParams, Sampler, Step
from trainable.diffusion.masked.schedule import Schedule
from trainable.diffusion.masked.streams import ORDER


class Quota(Sampler):
    """As many in each step as it takes to finish in time, the surest first or at random (LLaDA, arXiv
    2502.09992; Dream)."""

    name = "quota"

    class Params(BlockParams):
        """Which go first, and how many."""

        order: Literal["confidence", "margin", "entropy", "random"] = Field(
            "confidence",
            description="confidence: probability of the proposal; margin: best minus second best; entropy: "
                        "the lowest; random: the law that the model is trained under")
        schedule: ScheduleName = Field("linear",
                                       description="linear: as many in each step; cosine: few at first")
        set_temperature: float = Field(
            0.0, ge=0,
            description="above 0 the set is drawn, by softmax(score / set_temperature), without replacement")

    params: Params

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
        """The highest scores; with a set temperature, scores with Gumbel noise (a draw
        without replacement)."""
        scores = step.scores
        if scores is None:
            planned = self.plan(step)
            assert planned is not None, "only a random set needs no scores"
            return planned
        if self.params.set_temperature:
            scores = (scores / self.params.set_temperature
                      - (-step.random(ORDER).clamp(min=1e-300).log()).log())
        return lowest(-scores, self._count(step), step.open)

    def _count(self, step: Step) -> Tensor:
        if self.params.schedule == "linear":
            return step.quota
        share = Schedule(self.params.schedule).leaves(*step.times)
        return (step.open.sum(1) * share).round().long().clamp(min=1)
