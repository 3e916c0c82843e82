"""The variational bound of Gaussian diffusion in embedding space, part by part.

-log p(w) <= E[-log p(w | x_0)] + sum_t w_t E|embedding - x0(x_t)|^2 + KL(q(x_T | w) || N(0, I)), the middle
sum by importance sampling over times.

The released `calc_bpd_loop_e2e` sums other terms and is looser on the same model: at t = 0 it charges a KL
between two narrow Gaussians, around the embedding and around the predicted mean, and at t > 0 its target is a
noisy latent, whose noise no prediction can know, where here it is the embedding. It tells bits per dimension,
padding included, and this tells nats per word. So its figures and these do not compare.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainable.diffusion.gaussian.schedule import Schedule, randn

if TYPE_CHECKING:
    from trainable.models.diffusion_lm.denoiser import DiffusionLM


def levels(schedule: Schedule, loss: str) -> tuple[Tensor, Tensor]:
    """Signal a_t and variance s2_t [T] (float64) of q(x_t | word embedding): x_t = a_t
    * embedding + s_t * noise.

    Under `mse` the clean latent itself is the embedding plus noise of variance 1 - alpha_bar_0 (Diffusion-LM,
    section 4.2), which travels along: s2_t = alpha_bar_t (1 - alpha_bar_0) + 1 - alpha_bar_t, and
    level 0 is that latent.
    """
    alpha_bar = schedule.alpha_bar
    if loss == "ce":
        return alpha_bar.sqrt(), 1 - alpha_bar
    first = 1 - alpha_bar[0]
    signal, variance = alpha_bar.sqrt(), alpha_bar * first + 1 - alpha_bar
    signal[0], variance[0] = 1.0, first
    return signal, variance


def time_weights(signal: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """KL weights w_t = (SNR_{t-1} - SNR_t) / 2 for t = 1..T-1 (VDM, arXiv 2107.00630, equation 15),
    and a proposal q_t.

    q is half uniform and half proportional to w, so that no importance ratio w_t / q_t exceeds
    twice the sum of w.
    """
    snr = signal**2 / variance
    weights = (snr[:-1] - snr[1:]) / 2
    proposal = 0.5 / len(weights) + 0.5 * weights / weights.sum()
    return weights, proposal


def stratified_times(proposal: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` times in 1..T-1, one draw from each of `count` equal slices of the proposal's cumulative
    distribution."""
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return torch.searchsorted(proposal.cumsum(0), u.double()).clamp(max=len(proposal) - 1) + 1


def bound_parts(model: DiffusionLM, schedule: Schedule, ids: Tensor, count: int,
                generator: torch.Generator) -> dict[str, Tensor]:
    """Nats per text [B] (float64, CPU) of the three terms, for ids [B, L]."""
    signal, variance = levels(schedule, model.diffusion.loss)
    clean = model.embed(ids).float()
    norm = clean.double().pow(2).sum(dim=(1, 2)).cpu()
    size = clean[0].numel()
    last_a2, last_s2 = float(signal[-1]) ** 2, float(variance[-1])
    prior = 0.5 * (last_a2 * norm + size * (last_s2 - 1 - math.log(last_s2)))
    rounding = _rounding(model, ids, clean, signal, variance, generator)
    weights, proposal = time_weights(signal, variance)
    diffusion = torch.zeros_like(prior)
    for t in stratified_times(proposal, count, generator).tolist():
        x_t = noisy(clean, signal[t], variance[t], generator)
        predicted = model.predict(x_t, torch.full((len(ids),), t, device=ids.device)).x0
        assert predicted is not None
        error = (predicted.float() - clean).double().pow(2).sum(dim=(1, 2)).cpu()
        diffusion += float(weights[t - 1] / proposal[t - 1]) * error / count
    return {"rounding": rounding, "diffusion": diffusion, "prior": prior}


def _rounding(model: DiffusionLM, ids: Tensor, clean: Tensor, signal: Tensor, variance: Tensor,
              generator: torch.Generator) -> Tensor:
    """-log p(w | x_0): the rounding head on x_0 (`mse`), the denoiser's posterior at time 0 (`ce`)."""
    x_0 = noisy(clean, signal[0], variance[0], generator)
    if model.diffusion.loss == "mse":
        log_probs = model.logits(x_0).float().log_softmax(-1)
    else:
        log_probs = model.predict(x_0, torch.zeros(len(ids), dtype=torch.long, device=ids.device)).log_probs
    return -log_probs.gather(-1, ids[..., None]).double().sum(dim=(1, 2)).cpu()


def noisy(clean: Tensor, signal: Tensor, variance: Tensor, generator: torch.Generator) -> Tensor:
    """a * clean + s * noise."""
    return float(signal) * clean + float(variance) ** 0.5 * randn(clean.shape, generator, clean.device)
