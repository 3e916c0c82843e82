"""An upper bound on the negative log-likelihood of held-out text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainable.diffusion.gaussian.schedule import Schedule, randn
from trainable.metrics.base import Measurable, Metric, heldout_rows, scaled
from trainable.quantization.sites import frozen_weights

BATCH = 64


def levels(schedule: Schedule, loss: str) -> tuple[Tensor, Tensor]:
    """Signal a_t and variance s2_t [T] (float64) of q(x_t | word embedding): x_t = a_t * embedding + s_t * noise.

    Under `mse` the clean latent itself is the embedding plus noise of variance 1 - alpha_bar_0 (Diffusion-LM, section
    4.2), which travels along: s2_t = alpha_bar_t (1 - alpha_bar_0) + 1 - alpha_bar_t, and level 0 is that latent.
    """
    alpha_bar = schedule.alpha_bar.double()
    if loss == "ce":
        return alpha_bar.sqrt(), 1 - alpha_bar
    first = 1 - alpha_bar[0]
    signal, variance = alpha_bar.sqrt(), alpha_bar * first + 1 - alpha_bar
    signal[0], variance[0] = 1.0, first
    return signal, variance


def time_weights(signal: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """KL weights w_t = (SNR_{t-1} - SNR_t) / 2 for t = 1..T-1 (VDM, arXiv 2107.00630, equation 15), and a proposal q_t.

    q is half uniform and half proportional to w, so that no importance ratio w_t / q_t exceeds twice the sum of w.
    """
    snr = signal**2 / variance
    weights = (snr[:-1] - snr[1:]) / 2
    proposal = 0.5 / len(weights) + 0.5 * weights / weights.sum()
    return weights, proposal


def stratified_times(proposal: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` times in 1..T-1, one draw from each of `count` equal slices of the proposal's cumulative distribution."""
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return torch.searchsorted(proposal.cumsum(0), u.double()).clamp(max=len(proposal) - 1) + 1


class NLLBound(Metric):
    """Variational bound on the negative log-likelihood of held-out sentences, nats per word with END counted.

    -log p(w) <= E[-log p(w | x_0)] + sum_t w_t E|embedding - x0(x_t)|^2 + KL(q(x_T | w) || N(0, I)), the
    middle sum by importance sampling at times and noise that are the same in every trial. All positions, padding too,
    must be explained; the total is divided by the sentence's words + 1. It is a bound: comparable between models of
    one embedding dimension and corpus, never with an autoregressive model's perplexity.
    """

    name, unit, direction = "nll_bound", "nats/word", "minimize"
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`nll_bound`, its `_se` over sentences, and its parts `_rounding`, `_diffusion`, `_prior`."""
        e, schedule = m.config.evaluation, m.process.schedule
        generator = m.generator("nll_bound")
        rows = heldout_rows(m.corpus, scaled(e.heldout, m.share), generator)
        ids = torch.from_numpy(m.corpus.ids("valid")[sorted(rows)].astype("int64")).to(m.device)
        words = torch.from_numpy(m.corpus.lengths("valid")[sorted(rows)].astype("int64")) + 1
        training = m.model.training
        m.model.eval()
        try:
            with torch.no_grad(), frozen_weights(m.model):
                parts = sum_parts([self._parts(m.model, schedule, batch, e.times, generator)
                                   for batch in ids.split(BATCH)])
        finally:
            m.model.train(training)
        total = sum(parts.values())
        per_word = float(total.sum() / words.sum())
        residual = (total - per_word * words).pow(2).sum().sqrt() / words.sum()
        return {"nll_bound": per_word, "nll_bound_se": float(residual),
                **{f"nll_bound_{name}": float(value.sum() / words.sum()) for name, value in parts.items()}}

    def _parts(self, model, schedule: Schedule, ids: Tensor, count: int, generator: torch.Generator) -> dict:
        """Nats per sentence [B] (float64, CPU) of the three terms."""
        signal, variance = levels(schedule, model.diffusion.loss)
        clean = model.embed(ids).float()
        norm = clean.double().pow(2).sum(dim=(1, 2)).cpu()
        size = clean[0].numel()
        last_a2, last_s2 = float(signal[-1]) ** 2, float(variance[-1])
        prior = 0.5 * (last_a2 * norm + size * (last_s2 - 1 - math.log(last_s2)))
        rounding = self._rounding(model, schedule, ids, clean, signal, variance, generator)
        weights, proposal = time_weights(signal, variance)
        diffusion = torch.zeros_like(prior)
        for t in stratified_times(proposal, count, generator).tolist():
            x_t = noisy(clean, signal[t], variance[t], generator)
            predicted = model.predict(x_t, torch.full((len(ids),), t, device=ids.device)).x0.float()
            error = (predicted - clean).double().pow(2).sum(dim=(1, 2)).cpu()
            diffusion += float(weights[t - 1] / proposal[t - 1]) * error / count
        return {"rounding": rounding, "diffusion": diffusion, "prior": prior}

    def _rounding(self, model, schedule, ids: Tensor, clean: Tensor, signal, variance, generator) -> Tensor:
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


def sum_parts(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate the parts of several batches."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
