"""Settings of the one sampler that transformers' DiffusionGemma has."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from trainable import registry


class CanvasSampler:
    """How a canvas is filled. A subclass has `name`, a one-sentence docstring and `Params`."""

    name: ClassVar[str]
    Params: ClassVar[type[registry.Params]]

    def __init__(self, params: Any):
        self.params = params


class EntropyBound(CanvasSampler):
    """transformers' own generate: tokens whose entropies stay below a bound are kept, the others drawn anew,
    until the guess stays and is sure (arXiv 2505.24857; what is returned is the likeliest token of each
    position in the last pass)."""

    name = "entropy_bound"

    class Params(registry.Params):
        """Defaults are those of transformers."""

        bound: float = Field(0.1, gt=0, description="nats: tokens are kept while the entropies of the "
                                                    "surer ones sum to at most this")
        t_max: float = Field(0.8, gt=0, description="temperature of the first step, times "
                                                    "sampling.temperature")
        t_min: float = Field(0.4, ge=0, description="that of the last; below t_max")
        stability_threshold: int = Field(1, ge=0, description="passes that a guess must stay before it is "
                                                              "done")
        confidence_threshold: float = Field(0.005, gt=0, description="nats: mean entropy below which it is "
                                                                     "done")

        @model_validator(mode="after")
        def _ordered(self) -> EntropyBound.Params:
            if self.t_min >= self.t_max:
                raise ValueError(f"t_min={self.t_min} must be below t_max={self.t_max}")
            return self

    params: Params
