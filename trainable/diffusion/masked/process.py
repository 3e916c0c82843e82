"""Masked diffusion over tokens (MDLM, arXiv 2406.07524; LLaDA, arXiv 2502.09992; Dream, arXiv 2508.15487)
as a process."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.config import SamplingConfig
from spaces.errors import UserError
from trainable.diffusion.masked.bound import bound_per_row
from trainable.diffusion.masked.config import MaskedConfig
from trainable.diffusion.masked.corruption import State, bernoulli_mask, exact_mask, maskable
from trainable.diffusion.masked.losses import first_guess, masked_loss, normalize, token_weights
from trainable.diffusion.masked.sampling import MaskedSampling
from trainable.diffusion.masked.schedule import Schedule, draw_times
from trainable.diffusion.process import Process
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.registry import MASKED_SAMPLERS


class Masked(Process[MaskedLM]):
    """Tokens hidden behind MASK, filled in again a few at a time."""

    name = "masked"
    Params = MaskedConfig
    samplers = MASKED_SAMPLERS
    guides = ("classifier_free", "reweight")

    def __init__(self, params: MaskedConfig):
        super().__init__(params)
        self.schedule = Schedule(params.schedule)

    @property
    def levels(self) -> int:
        """100: level t stands for the time t / 100. Training and the bound draw times between levels, too."""
        return 100

    @property
    def averages(self) -> bool:
        return self.params.as_recipe.norm != "batch"

    def corrupt(self, model: MaskedLM, ids: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """[B, L] ids with MASK among them: each token behind START hidden with the schedule's share
        at level t [B]."""
        return self.state(model, ids, t / self.levels, generator).ids

    def state(self, model: MaskedLM, ids: Tensor, time: Tensor, generator: torch.Generator) -> State:
        """The same at times [B] in 0..1, with what is hidden. `masking: exact` hides that
        share, rounded up."""
        free, share = maskable(ids), self.schedule.masked_share(time).to(ids.device)
        if self.params.masking == "exact":
            masked = exact_mask((share * free.sum(1)).ceil().long(), free, generator)
        else:
            masked = bernoulli_mask(share, free, generator)
        return State(torch.where(masked, model.mask_id, ids), masked, time.to(ids.device))

    def loss(self, model: MaskedLM, ids: Tensor, generator: torch.Generator,
             condition: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars: `loss`, as the recipe weighs it; `ce`, the mean over hidden tokens. With
        self-conditioning, half of the batches are shown a first guess. Raises `UserError` where the recipe
        asks for logits that the model does not give.
        """
        recipe = self.params.as_recipe
        if recipe.shift not in (None, model.shift):
            raise UserError(f"diffusion.recipe {self.params.recipe} needs model.shift: "
                            f"{str(recipe.shift).lower()}")
        time = draw_times(len(ids), recipe.times, self.params.epsilon, generator)
        state, free = self.state(model, ids, time, generator), maskable(ids)
        weights = normalize(token_weights(state, free, self.params, self.schedule), state.masked, free,
                            recipe.norm)
        previous = None
        if (model.params.self_conditioning
                and torch.rand((), generator=generator, device=generator.device) < 0.5):
            previous = first_guess(model, state, condition)
        return masked_loss(model, ids, state, weights, previous, condition)

    def sampling(self, model: MaskedLM, config: SamplingConfig) -> MaskedSampling:
        """From rows of MASK to words."""
        return MaskedSampling(model, config)

    def bound(self, model: MaskedLM, ids: Tensor, count: int,
              generator: torch.Generator) -> dict[str, Tensor]:
        """See `bound`: the same masks for every model, whatever the recipe it was trained by."""
        return {"tokens": bound_per_row(model, ids, generator, count).cpu()}
