"""What a denoiser says about a noisy latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAST_LOG = -70.0
"""Far enough from -87, below which float32 has no normal number, for products with gradients."""


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


class Prediction(NamedTuple):
    """`x0` [B, L, d]: predicted clean latent, None where the state is words, or nobody asked for it;
    `log_probs` [B, L, V]: log-posterior over words; `hidden` [B, L, H]: the body's last state, where the
    denoiser gives it. All differentiable in x_t."""

    x0: Tensor | None
    log_probs: Tensor
    hidden: Tensor | None = None

    def rows(self, which: slice) -> Prediction:
        """Of some of the texts."""
        return Prediction(None if self.x0 is None else self.x0[which], self.log_probs[which],
                          None if self.hidden is None else self.hidden[which])

    def split(self, sizes: Sequence[int]) -> list[Prediction]:
        """Of that many texts each, in order."""
        count = list(sizes)

        def parts(value: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * len(count) if value is None else value.split(count)

        return [Prediction(x0, log_probs, hidden) for x0, log_probs, hidden in zip(
            parts(self.x0), self.log_probs.split(count), parts(self.hidden), strict=True)]
