"""Training losses over noisy latents. Each returns the total and its parts, all per sentence [B].

Times are [B], one per sentence, or [B, L], one per word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from trainable.diffusion.gaussian.schedule import Schedule, per_position, randn

if TYPE_CHECKING:
    from trainable.models.diffusion_lm.denoiser import DiffusionLM

FirstGuess = Callable[[Tensor, Tensor], Tensor | None]
"""`x0_prev(x_t, t)`: what a model with self-conditioning is told."""


def token_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """[B, L] cross-entropy in nats. Flattened: log-softmax over a strided dimension costs 4x on CPU."""
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)


def published_loss(model: DiffusionLM, ids: Tensor, t: Tensor, schedule: Schedule, generator: torch.Generator,
                   x0_prev: FirstGuess | None = None, condition: Tensor | None = None) -> dict[str, Tensor]:
    """Diffusion-LM's `mse` loss (arXiv 2205.14217, equation 2; released code): three unweighted terms.

    (a) squared error of the predicted against the noisy x0 (against the clean embedding at t = 0),
    mean over positions and dimensions; (b) cross-entropy of the rounding head on the noisy true x0; (c)
    mean square of the mean of x_T.
    """
    table = model.table()
    clean = F.embedding(ids, table)
    first_std = (1 - schedule.alpha_bar[0]).sqrt()
    x0 = clean + first_std * randn(clean.shape, generator, clean.device, clean.dtype)
    x_t = schedule.noise(x0, t, generator)
    predicted = model(x_t, t, x0_prev(x_t, t) if x0_prev else None, condition)
    target = torch.where(per_position(t == 0), clean, x0)
    mse = (predicted - target).float().pow(2).mean(dim=(1, 2))
    logits = model.logits(x0, table).float()
    rounding = token_nll(logits, ids).mean(1)
    prior = schedule.alpha_bar[-1] * x0.float().pow(2).mean(dim=(1, 2))
    return {"loss": mse + rounding + prior, "mse": mse, "rounding": rounding, "prior": prior}


def posterior_loss(model: DiffusionLM, ids: Tensor, t: Tensor, schedule: Schedule, generator: torch.Generator,
                   x0_prev: FirstGuess | None = None, condition: Tensor | None = None) -> dict[str, Tensor]:
    """`ce`: cross-entropy of the denoiser's token posterior (score interpolation, CDCD, arXiv 2211.15089)."""
    table = model.table()
    clean = F.embedding(ids, table)
    x_t = schedule.noise(clean, t, generator)
    logits = model.logits(model(x_t, t, x0_prev(x_t, t) if x0_prev else None, condition), table).float()
    nll = token_nll(logits, ids).mean(1)
    return {"loss": nll, "ce": nll}


def draw_times(ids: Tensor, timesteps: int, mixed: float, generator: torch.Generator) -> Tensor:
    """Times [B], stratified over the batch; with `mixed` above 0, [B, L].

    In a share `mixed` of the sentences, drawn anew for each batch, every word then has a uniform time of its
    own, so that clear words stand beside noisy ones (diffusion forcing, arXiv 2407.01392). A denoiser learns
    to use context from these long before it does from sentences that are noisy throughout; sampling, where
    all words share one time, profits. The times of the other sentences are stratified among themselves.

    `mixed * B` is rounded up or down at random, so that the share holds on average in batches of any size:
    rounded to the nearest, 0.95 of 8 would leave no sentence with one time. A binomial draw would add
    variance and nothing else.
    """
    batch, length = ids.shape
    device = generator.device

    def rand(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    if not mixed:
        u = (rand() + torch.arange(batch, device=device) / batch) % 1
    else:
        place = torch.randperm(batch, generator=generator, device=device)
        alone = place + rand() < mixed * batch
        others = (~alone).sum().clamp(min=1)  # a tensor: to read the count would make the CPU wait for a GPU
        shared = (rand() + (batch - 1 - place) / others) % 1
        u = torch.where(alone[:, None], rand(batch, length), shared[:, None])
    return (u.to(ids.device) * timesteps).long().clamp(max=timesteps - 1)


LOSSES = {"mse": published_loss, "ce": posterior_loss}


def training_loss(model: DiffusionLM, ids: Tensor, schedule: Schedule, generator: torch.Generator,
                  condition: Tensor | None = None) -> dict[str, Tensor]:
    """One draw of times and noise, and with self-conditioning a first guess half the time.

    Args: ids [B, L]; condition as the model takes it. Returns scalars: `loss` to differentiate,
    and its parts.
    """
    t = draw_times(ids, schedule.timesteps, model.diffusion.mixed_times, generator)
    x0_prev: FirstGuess | None = None
    if model.params.self_conditioning and torch.rand((), generator=generator, device=generator.device) < 0.5:
        def guess(x_t: Tensor, t: Tensor) -> Tensor | None:
            with torch.no_grad():
                return model.predict(x_t, t, condition=condition).x0
        x0_prev = guess
    parts = LOSSES[model.diffusion.loss](model, ids, t, schedule, generator, x0_prev, condition)
    return {name: value.mean() for name, value in parts.items()}
