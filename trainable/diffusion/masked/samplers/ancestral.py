"""The forward process run backwards."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from trainable.diffusion.masked.config import ScheduleName
from trainable.diffusion.masked.samplers.base import BlockParams, Sampler, Step
from trainable.diffusion.masked.schedule import Schedule
from trainable.diffusion.masked.streams import ORDER


class Ancestral(Sampler):
    """Each masked token is filled by chance, as the forward process run backwards has it (MDLM,
    arXiv 2406.07524)."""

    name = "ancestral"

    class Params(BlockParams):
        """`schedule`: how the chances are spread over the steps."""

        schedule: ScheduleName = Field("linear",
                                       description="linear: as many in each step; cosine: few at first")

    params: Params

    def plan(self, step: Step) -> Tensor:
        """Fills with chance 1 - share(s) / share(t); everything in the last step."""
        leaves = Schedule(self.params.schedule).leaves(*step.times)
        return step.open & (step.random(ORDER) < leaves[:, None])

    def choose(self, step: Step) -> Tensor:
        """As planned."""
        return self.plan(step)
