"""Masked diffusion as one object: how rows are masked, what is learned from them, how text is made, how likely text is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spaces.errors import UserError
from trainable.corpora.tokenize import START
from trainable.diffusion.masked.bound import bound_per_row
from trainable.diffusion.masked.config import MaskedParams
from trainable.diffusion.masked.corruption import State, bernoulli_mask, exact_mask, maskable
from trainable.diffusion.masked.losses import first_guess, masked_loss, normalize, token_weights
from trainable.diffusion.masked.samplers import Quota, Sampler
from trainable.diffusion.masked.sampling import Request, Reweight, Samples, generate
from trainable.diffusion.masked.schedule import Schedule, draw_times
from trainable.diffusion.masked.streams import row_seeds
from trainable.quantization.sites import frozen_weights

LEVELS = 10
"""Shares of masks, evenly spaced, that stand for the whole process where something is measured or calibrated by level."""


class MaskedProcess:
    """Absorbing-state diffusion over tokens (MDLM, LLaDA, Dream). Holds settings and no weights."""

    name = "masked"

    def __init__(self, params: MaskedParams | None = None, sampler: Sampler | None = None, steps: int = 32,
                 temperature: float = 1.0, top_p: float = 1.0, structured: bool = True):
        """`steps`: most passes for a row; `structured`: rows read START words END PAD... and stay so."""
        self.params = params or MaskedParams()
        self.schedule = Schedule(self.params.schedule)
        self.sampler = sampler or Quota(Quota.Params())
        self.steps, self.temperature, self.top_p, self.structured = steps, temperature, top_p, structured

    @property
    def levels(self) -> Tensor:
        """[LEVELS] times in (0, 1], from little to much masked."""
        return torch.arange(1, LEVELS + 1) / LEVELS

    # ---- learning ----

    def corrupt(self, ids: Tensor, t: Tensor, generator: torch.Generator, mask_id: int) -> State:
        """Rows [B, L] at times t [B]: each maskable token is MASK with the schedule's share; with `masking: exact`, that
        share of them, rounded up."""
        free, share = maskable(ids), self.schedule.masked_share(t).to(ids.device)
        if self.params.masking == "exact":
            masked = exact_mask((share * free.sum(1)).ceil().long(), free, generator)
        else:
            masked = bernoulli_mask(share, free, generator)
        return State(torch.where(masked, mask_id, ids), masked, t.to(ids.device))

    def loss(self, backbone: nn.Module, ids: Tensor, generator: torch.Generator,
             condition: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars for a batch of rows [B, L]: `loss` to differentiate; `ce`, the mean over masked tokens. With
        self-conditioning, half of the batches are shown a first guess."""
        self.check(backbone)
        recipe = self.params.as_recipe
        t = draw_times(len(ids), recipe.times, self.params.epsilon, generator)
        state = self.corrupt(ids, t, generator, backbone.mask_id)
        free = maskable(ids)
        weights = normalize(token_weights(state, free, self.params, self.schedule), state.masked, free, recipe.norm)
        soft = None
        if backbone.config.self_conditioning and torch.rand((), generator=generator, device=generator.device) < 0.5:
            soft = first_guess(backbone, state, condition)
        return masked_loss(backbone, ids, state, weights, soft, condition)

    def check(self, backbone: nn.Module) -> None:
        """Raises `UserError` where the recipe asks for logits that the backbone does not give."""
        shift = self.params.as_recipe.shift
        if shift is not None and shift != backbone.config.shift:
            raise UserError(f"recipe {self.params.recipe!r} needs a backbone with shift: {str(shift).lower()}")

    # ---- writing ----

    def sample(self, backbone: nn.Module, n: int, length: int, generator: torch.Generator,
               prompt: Tensor | None = None, guide: Reweight | None = None) -> Tensor:
        """`n` rows of ids [n, length] (START ... END PAD): see `generate`."""
        return self.generate(backbone, n, length, generator, prompt, guide).ids

    def generate(self, backbone: nn.Module, n: int, length: int, generator: torch.Generator,
                 prompt: Tensor | None = None, guide: Reweight | None = None, condition: Tensor | None = None,
                 scale: float = 1.0, rows: Tensor | None = None) -> Samples:
        """`n` rows of `length` positions, and the passes that each took.

        Args: `prompt`, ids [n, P] or [P], P up to `length`, MASK where there is something to fill in; what is not MASK is
        kept bit for bit. `guide` reweights the posterior of tokens before they are drawn. `condition` [n, K, length] and
        `scale` are those of classifier-free guidance. `rows` [n]: the numbers of these samples, 0..n-1 when not given:
        sample 7 is the same whatever is sampled beside it. The backbone is in eval mode for the call.
        """
        device = next(backbone.parameters()).device
        template = self._template(backbone, n, length, prompt, device)
        numbers = torch.arange(n, device=device) if rows is None else rows.to(device)
        request = Request(self.steps, self.temperature, self.top_p, guide, scale, self.structured)
        with _at_rest(backbone):
            return generate(backbone, self.sampler, template, row_seeds(generator, numbers), request, condition)

    def _template(self, backbone: nn.Module, n: int, length: int, prompt: Tensor | None, device) -> Tensor:
        longest = backbone.config.positions
        if length > longest:
            raise UserError(f"{length} positions asked for; the model has {longest}")
        template = torch.full((n, length), backbone.mask_id, device=device)
        if prompt is None:
            template[:, 0] = START
            return template
        if prompt.shape[-1] > length:
            raise UserError(f"a prompt of {prompt.shape[-1]} tokens is longer than the {length} positions of a row")
        template[:, :prompt.shape[-1]] = prompt.to(device)
        return template

    # ---- likelihood ----

    def bound(self, backbone: nn.Module, ids: Tensor, generator: torch.Generator, draws: int = 16,
              rows: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B] nats: upper bound on -log p of each row, whatever the recipe (`bound.bound_per_row`)."""
        with _at_rest(backbone):
            return bound_per_row(backbone, ids, generator, draws, rows, condition)


@contextmanager
def _at_rest(backbone: nn.Module) -> Iterator[None]:
    """Eval mode, and quantized weights computed once."""
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad(), frozen_weights(backbone):
            yield
    finally:
        backbone.train(training)
