"""What a generation asks of its denoiser, step by step, and how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainable.diffusion.guide import LatentGuide
from trainable.models.prediction import Prediction

if TYPE_CHECKING:
    from trainable.diffusion.gaussian.sampling import GaussianSampling
    from trainable.models.diffusion_lm.denoising import Denoising

Believed = Callable[[Tensor, Tensor], Prediction]


@contextmanager
def asked_by(sampling: GaussianSampling, times: Sequence[int], length: int,
             device: torch.device) -> Iterator[Asked]:
    """For one generation at these times; the model stays as it is meanwhile."""
    made = None
    if sampling.condition is None or not sampling.scale:
        made = sampling.model.denoising(length, sampling.config.temperature, sampling.config.clamp)
    if made is None:
        yield Asked(sampling, times, device)
        return
    with made.running():
        yield AskedAtOneShape(sampling, times, device, made)


class Asked:
    """By `GaussianSampling.predict`. Steps are numbers of times."""

    def __init__(self, sampling: GaussianSampling, times: Sequence[int], device: torch.device):
        self.sampling, self.times, self.device = sampling, times, device
        self.looks = 0
        """Predictions so far."""

    def guess(self, x: Tensor, step: int, previous: Tensor | None) -> Tensor:
        """The clean latents that are expected of latents x."""
        x0 = self._predict(x, self._time(x, step), previous).x0
        assert x0 is not None
        return x0

    def words(self, x: Tensor, step: int, previous: Tensor | None) -> Tensor:
        """[B, L, V] log-posterior over words."""
        return self._predict(x, self._time(x, step), previous).log_probs

    def believed(self, step: int, time: Tensor, previous: Tensor | None, guide: LatentGuide) -> Believed:
        """What the guide is given: the prediction of latents at a time, `time` being the step's own."""
        return lambda latent, at: self._predict(latent, at, previous)

    def _predict(self, x: Tensor, time: Tensor, previous: Tensor | None) -> Prediction:
        self.looks += 1
        return self.sampling.predict(x, time, previous)

    def _time(self, x: Tensor, step: int) -> Tensor:
        return torch.full((len(x),), self.times[step], device=self.device)


class AskedAtOneShape(Asked):
    """By a `Denoising`, which knows the times."""

    def __init__(self, sampling: GaussianSampling, times: Sequence[int], device: torch.device,
                 denoising: Denoising):
        super().__init__(sampling, times, device)
        self.denoising = denoising
        self.rows = denoising.rows(torch.tensor(times, device=device))

    def guess(self, x: Tensor, step: int, previous: Tensor | None) -> Tensor:
        self.looks += 1
        return self.denoising.guess(x, self.rows[step], previous, self.sampling.condition, self._ahead(step))

    def words(self, x: Tensor, step: int, previous: Tensor | None) -> Tensor:
        self.looks += 1
        return self.denoising.words(x, self.rows[step], previous, self.sampling.condition)

    def believed(self, step: int, time: Tensor, previous: Tensor | None, guide: LatentGuide) -> Believed:
        def predict(latent: Tensor, at: Tensor) -> Prediction:
            if at is not time:
                return self._predict(latent, at, previous)
            self.looks += 1
            return self.denoising.prediction(latent, self.rows[step], previous, self.sampling.condition,
                                             guide.reads_x0, guide.looks * self._ahead(step))
        return predict

    def _ahead(self, step: int) -> int:
        return max(0, len(self.times) - 2 - step)
