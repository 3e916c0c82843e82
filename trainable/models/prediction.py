"""What a denoiser says about a noisy latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

LEAST_LOG = -70.0
"""Far enough from -87, below which float32 has no normal number, for products with gradients."""


TOGETHER = 16
"""Texts whose posterior a CPU's cache holds, so that tasks share one."""


def probabilities(log_probs: Tensor) -> Tensor:
    """exp of log-probabilities of any shape, those below e^-70 counted as that: no sum in which another
    counts tells the two apart, and torch's exp on a CPU takes some hundred times as long where its results
    underflow (findings/exp_underflow.sh), which most of a sharp posterior over words does."""
    if torch.is_grad_enabled() and log_probs.requires_grad:
        found: Tensor = _Exp.apply(log_probs)
        return found
    return log_probs.clamp(min=LEAST_LOG).exp_()


class _Exp(torch.autograd.Function):
    """Without the gradient of the clamp, which would take longer than that of exp and changes no sum."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor) -> Tensor:
        found = log_probs.clamp(min=LEAST_LOG).exp_()
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        found, = ctx.saved_tensors
        return grad * found


def log_sum(log_probs: Tensor) -> Tensor:
    """[..., N] -> [...] log of the sum of what these are the logs of, one of each N above -inf.
    `torch.logsumexp`, forward and backward, by `probabilities`."""
    found: Tensor = _LogSum.apply(log_probs)
    return found


class _LogSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_probs: Tensor) -> Tensor:
        top = log_probs.amax(-1, keepdim=True)
        total = probabilities(log_probs - top).sum(-1).log_().add_(top.squeeze(-1))
        ctx.save_for_backward(log_probs, total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        log_probs, total = ctx.saved_tensors
        return grad[..., None] * probabilities(log_probs - total[..., None])


def posterior(logits: Tensor) -> tuple[Tensor, Tensor]:
    """[..., V] -> log-softmax, and its `probabilities`, both differentiable: what losses read of either goes
    back through one gradient, which takes no exponential anew."""
    log_probs, probs = _Posterior.apply(logits)
    return log_probs, probs


class _Posterior(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = logits.log_softmax(-1)
        probs = log_probs.clamp(min=LEAST_LOG).exp_()
        ctx.save_for_backward(probs)
        ctx.set_materialize_grads(False)
        return log_probs, probs

    @staticmethod
    def backward(ctx: Any, by_log: Tensor | None, by_probs: Tensor | None) -> Tensor | None:
        probs, = ctx.saved_tensors
        found = by_log
        if by_probs is not None:
            found = by_probs * probs if by_log is None else torch.addcmul(by_log, by_probs, probs)
        return None if found is None else torch.addcmul(found, probs, found.sum(-1, keepdim=True), value=-1)


class Prediction:
    """`x0` [B, L, d]: predicted clean latent, None where the state is words, or nobody asked for it;
    `log_probs` [B, L, V]: log-posterior over words; `hidden` [B, L, H]: the body's last state, where the
    denoiser gives it. All differentiable in x_t."""

    def __init__(self, x0: Tensor | None, log_probs: Tensor, hidden: Tensor | None = None):
        self.x0, self.hidden = x0, hidden
        self._log_probs: Tensor | None = log_probs
        self._probs: Tensor | None = None
        self._latent: Tensor | None = None
        self._logits: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of_latents(cls, latent: Tensor, logits: Callable[[Tensor], Tensor], hidden: Tensor | None = None,
                   x0: Tensor | None = None) -> Prediction:
        """The posterior of a rounding head, computed when it is first read: of more than `TOGETHER` texts
        that are `split` among tasks before, task by task, which a CPU's cache holds."""
        found = cls.__new__(cls)
        found.x0, found.hidden, found._latent, found._logits = x0, hidden, latent, logits
        found._log_probs = found._probs = None
        return found

    def __iter__(self) -> Iterator[Tensor | None]:
        """`x0`, `log_probs`, `hidden`."""
        return iter((self.x0, self.log_probs, self.hidden))

    @property
    def log_probs(self) -> Tensor:
        """[B, L, V]."""
        if self._log_probs is None:
            assert self._latent is not None and self._logits is not None
            self._log_probs, self._probs = posterior(self._logits(self._latent))
        return self._log_probs

    @property
    def probs(self) -> Tensor:
        """[B, L, V]: `probabilities` of the log-posterior."""
        log_probs = self.log_probs
        if self._probs is None:
            self._probs = probabilities(log_probs)
        return self._probs

    def rows(self, which: slice) -> Prediction:
        """Of some of the texts."""
        return Prediction(None if self.x0 is None else self.x0[which], self.log_probs[which],
                          None if self.hidden is None else self.hidden[which])

    def split(self, sizes: Sequence[int]) -> list[Prediction]:
        """Of that many texts each, in order."""
        count = list(sizes)

        def parts(value: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * len(count) if value is None else value.split(count)

        rest = zip(parts(self.x0), parts(self.hidden), strict=True)
        if self._latent is not None and self._logits is not None and len(self._latent) > TOGETHER:
            return [Prediction.of_latents(latent, self._logits, hidden, x0)
                    for latent, (x0, hidden) in zip(self._latent.split(count), rest, strict=True)]
        found = [Prediction(x0, log_probs, hidden)
                 for log_probs, (x0, hidden) in zip(self.log_probs.split(count), rest, strict=True)]
        if self._probs is not None:
            for each, probs in zip(found, self._probs.split(count), strict=True):
                each._probs = probs
        return found
