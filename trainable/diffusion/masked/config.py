"""Settings of masked diffusion: the training recipe. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from trainable.registry import Params

ScheduleName = Literal["linear", "cosine"]
Times = Literal["antithetic", "uniform"]
Masking = Literal["bernoulli", "exact"]
LossWeight = Literal["nelbo", "row_mean", "uniform", "cart"]
LossNorm = Literal["token", "sequence", "batch", "masked"]


@dataclass(frozen=True)
class Recipe:
    """How a published program trains. What stands here is what it does; a setting in `MaskedConfig`
    wins over it."""

    times: Times = "uniform"
    weight: LossWeight = "nelbo"
    norm: LossNorm = "token"
    guard: float = 0.0
    """Added to the masked share below the weight's fraction bar."""
    shift: bool | None = None
    """Whether the logits are shifted by one; None: as the model has it."""


RECIPES = {
    "mdlm": Recipe(times="antithetic", shift=False),  # kuleshov-group/mdlm, arXiv 2406.07524
    "llada": Recipe(norm="sequence", shift=False),  # ML-GSAI/LLaDA GUIDELINES, arXiv 2502.09992
    "dllm": Recipe(guard=1e-6),  # ZHZisZZ/dllm, trainers/mdlm.py
    "dream": Recipe(weight="cart", guard=1e-6, shift=True),  # arXiv 2508.15487, section 3.2
    # plain masked-LM loss at all shares
    "uniform": Recipe(times="antithetic", weight="uniform", norm="masked"),
}


class MaskedConfig(Params):
    """A recipe by name, and what to change in it. Evaluation is by the bound (weight 1/t, exact
    counts) under each."""

    name: ClassVar[str] = "masked"

    recipe: Literal["mdlm", "llada", "dllm", "dream", "uniform"] = Field(
        "uniform",
        description="mdlm, llada, dllm: the bound's weight 1/t, as these programs draw t and divide; dream: "
                    "CART, by seen neighbors, shifted logits; uniform: every masked token alike")
    schedule: ScheduleName = Field("linear",
                                   description="masked share at time t: linear: t; cosine: sin(pi t / 2)")
    loss_weight: LossWeight | None = Field(
        None, description="nelbo: 1/t; row_mean: mean over a row's masked tokens; uniform; cart. null: "
                          "the recipe's")
    loss_norm: LossNorm | None = Field(
        None, description="what the sum is divided by: token: all maskable ones; sequence: each row's, "
                          "then rows; batch: rows; masked: the masked ones. null: the recipe's")
    masking: Masking = Field("bernoulli",
                             description="bernoulli: each token by itself; exact: a drawn count per row")
    epsilon: float = Field(1e-3, ge=0, lt=1, description="smallest time that is trained at")
    cart_p: float = Field(0.3, gt=0, lt=1,
                          description="cart: how fast a seen neighbor's weight falls with distance")

    condition_drop: float = Field(0.2, ge=0, le=1,
                                  description="share of the training texts that the model is told "
                                              "nothing of, where model.conditions are given")

    @property
    def as_recipe(self) -> Recipe:
        """The recipe with this object's changes."""
        base = RECIPES[self.recipe]
        return Recipe(base.times, self.loss_weight or base.weight, self.loss_norm or base.norm, base.guard,
                      base.shift)
