"""What a denoiser says about a noisy latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


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
