"""Training losses over noisy latents. Each returns the total and its parts, all per sentence [B].

Times are [B], one per sentence, or [B, L], one per word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainable.diffusion.gaussian.schedule import Schedule, per_position, randn
from trainable.diffusion.step_graphs import Runs, directly

if TYPE_CHECKING:
    from trainable.models.diffusion_lm.denoiser import DiffusionLM

TRUSTED = 1e-30
"""Probabilities from which their logarithm is exact: well above the subnormal numbers."""
FirstGuess = Callable[[Tensor, Tensor], Tensor | None]
"""`x0_prev(x_t, t)`: what a model with self-conditioning is told."""


def token_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """[B, L] cross-entropy in nats. Flattened: log-softmax over a strided dimension costs 4x on CPU."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        found: Tensor = _TokenNLL.apply(logits.flatten(0, 1), ids.flatten())
        return found.view(ids.shape)
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)


class _TokenNLL(torch.autograd.Function):
    """Cross-entropy of logits [N, V] and ids [N], by way of the probabilities: its gradient is these but for
    the word itself, where log-softmax takes the exponential of all words anew. Takes half of its time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        probs, where = logits.softmax(-1), ids[:, None]
        own = probs.gather(1, where)
        nll = -own.log()
        far = (own < TRUSTED).any(1)
        if far.any():  # too improbable for the logarithm of a probability
            nll[far] = logits[far].logsumexp(-1, keepdim=True) - logits[far].gather(1, where[far])
        ctx.save_for_backward(probs, where)
        return nll[:, 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        probs, where = ctx.saved_tensors
        each = grad[:, None]
        return (probs * each).scatter_add_(1, where, -each), None


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
                   told: bool = False, condition: Tensor | None = None,
                   run: Runs = directly) -> dict[str, Tensor]:
    """`ce`: cross-entropy of the denoiser's token posterior (score interpolation, CDCD, arXiv 2211.15089).

    `told`: the denoiser is told its own first guess, which has no gradient. The rows of table and times are
    computed once for both looks.
    """
    positions, conditioned = ids.shape[1], condition is not None

    def noised(ids: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table = model.table()
        return schedule.mixed(F.embedding(ids, table), t, noise), model.time_rows(t), table

    def raw(x_t: Tensor, time: Tensor, guess: Tensor | None, given: Sequence[Tensor]) -> Tensor:
        condition = given[0] if given else None
        return model.down(model.state(x_t, time, model.positions(positions), guess, condition))

    def guessed(x_t: Tensor, time: Tensor, table: Tensor, *given: Tensor) -> Tensor:
        logits = model.rounding.at(table, 1.0)(raw(x_t, time, None, given))
        return model.expected(logits.softmax(-1), table)

    def logits(x_t: Tensor, time: Tensor, table: Tensor, *given: Tensor) -> Tensor:
        return model.logits(raw(x_t, time, given[0] if told else None, given[told:]), table).float()

    noise = randn((*ids.shape, model.params.embedding_dim), generator, ids.device)
    x_t, time, table = run("noised", noised, ids, t, noise)
    if model.noise is not None:
        model.noise.show(*model.noise_of(x_t, t))
    given = [] if condition is None else [condition]
    if told:
        with torch.no_grad():
            given.insert(0, run(f"guessed {conditioned}", guessed, x_t, time, table, *given))
    nll = token_nll(run(f"logits {told} {conditioned}", logits, x_t, time, table, *given), ids).mean(1)
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


def training_loss(model: DiffusionLM, ids: Tensor, schedule: Schedule, generator: torch.Generator,
                  condition: Tensor | None = None, run: Runs = directly) -> dict[str, Tensor]:
    """One draw of times and noise, and with self-conditioning a first guess half the time.

    Args: ids [B, L]; condition as the model takes it; `run`: how the functions of `ce` run. Returns scalars:
    `loss` to differentiate, and its parts.
    """
    t = draw_times(ids, schedule.timesteps, model.diffusion.mixed_times, generator)
    told = (model.params.self_conditioning
            and bool(torch.rand((), generator=generator, device=generator.device) < 0.5))
    if model.diffusion.loss == "ce":
        parts = posterior_loss(model, ids, t, schedule, generator, told, condition, run)
    else:
        def guess(x_t: Tensor, t: Tensor) -> Tensor | None:
            with torch.no_grad():
                return model.predict(x_t, t, condition=condition).x0
        parts = published_loss(model, ids, t, schedule, generator, guess if told else None, condition)
    return {name: value.mean() for name, value in parts.items()}
