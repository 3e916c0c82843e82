"""Settings of Gaussian diffusion in embedding space. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trainable.registry import Params, Rule


class GaussianConfig(Params):
    """Gaussian noise on word latents, and the training loss."""

    name: ClassVar[str] = "gaussian"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("sampling.steps", lambda steps, own: steps <= own.timesteps,
             "should be at most diffusion.timesteps={timesteps}"),
    )

    timesteps: int = Field(2000, ge=10, le=10_000,
                           description="T, noise levels of the forward process")
    schedule: Literal["sqrt", "cosine"] = Field("sqrt", description="how fast noise is added")
    loss: Literal["mse", "ce"] = Field("mse",
                                       description="mse: published; ce: cross-entropy of the token posterior")
    mixed_times: float = Field(0.0, ge=0, le=1,
                               description="share of a batch whose words each have a time of their own")
    condition_drop: float = Field(0.2, ge=0, le=1,
                                  description="share of the training texts that the model is told nothing "
                                              "of, where model.conditions are given")
