"""Gradient guidance of the latents towards a control target (Diffusion-LM, arXiv 2205.14217, section 5.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spaces.config import GuidanceConfig
from trainable.control.base import ControlTask, Target
from trainable.control.lexicon import AnyCorpus
from trainable.diffusion.guide import LatentGuide
from trainable.models.prediction import Prediction

EPSILON = 1e-10
"""Adagrad's, as in torch."""


class GradientGuide(LatentGuide):
    """Called after each denoising step; moves the latent so that the task's loss falls.

    Each of `inner_steps` updates follows g = gradient of task loss + fluency * |x - mean|^2 / sigma^2.
    `sign`: x <- x - strength * sign(g), which is what the released code does, since it makes a new Adagrad
    optimizer for every update. `adagrad`: x <- x - strength * g / (sqrt(sum of all g^2 so far) + eps),
    one optimizer for a whole generation. Losses are summed over the batch, so that a sentence does not depend
    on what it is generated with.
    """

    def __init__(self, task: ControlTask, targets: Sequence[Target], config: GuidanceConfig,
                 corpus: AnyCorpus, total_steps: int):
        """`total_steps` denoising steps in all; the first `config.start` and the last `config.stop`
        share of them, rounded up, are left unguided. The task's own settings win over `config`."""
        self.task, self.targets, self.config, self.corpus = task, list(targets), task.guidance(config), corpus
        self.first = math.ceil(self.config.start * total_steps)
        self.guided_steps = total_steps - math.ceil(self.config.stop * total_steps)
        self.reads_x0, self.looks = task.reads_x0, self.config.inner_steps
        self._squares: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor, mean: Tensor, sigma: Tensor | float,
                 predict: Callable[[Tensor, Tensor], Prediction], step: int) -> Tensor:
        """[B, L, d] latents after step `step` (from 0) -> the same, guided.

        `t` [B] is their time; `mean` and `sigma` (broadcastable) are of the Gaussian they were drawn
        from. A step without noise has sigma 0 and counts as 1, as released. With nothing to do, `x`
        itself is returned.
        """
        if (self.config.inner_steps == 0 or self.config.strength == 0
                or not self.first <= step < self.guided_steps):
            return x
        if len(x) != len(self.targets):
            raise ValueError(f"{len(x)} latents but {len(self.targets)} targets")
        pull = self._pull(sigma, x)
        x = x.detach()
        for _ in range(self.config.inner_steps):
            with torch.enable_grad():
                x.requires_grad_(True)
                gradient, = torch.autograd.grad(self._loss(predict(x, t)), x)
            x = x.detach()
            x = x - self.config.strength * self._direction(gradient + pull * (x - mean))
        return x

    def joins(self, other: GradientGuide) -> bool:
        """Whether one batch can be led by both."""
        return (self.config, self.first, self.guided_steps) == (other.config, other.first,
                                                                other.guided_steps)

    def _loss(self, prediction: Prediction) -> Tensor:
        return self.task.loss(prediction, self.targets, self.corpus).sum()

    def _pull(self, sigma: Tensor | float, x: Tensor) -> Tensor | float:
        """Times x - mean, the gradient of fluency * |x - mean|^2 / sigma^2."""
        if isinstance(sigma, float | int):
            return 2 * self.config.fluency / (sigma**2 or 1.0)
        variance = sigma.to(x) ** 2
        return 2 * self.config.fluency / torch.where(variance > 0, variance, torch.ones_like(variance))

    def _direction(self, gradient: Tensor) -> Tensor:
        if self.config.optimizer == "sign":
            return gradient.sign()
        square = gradient.square()
        self._squares = square if self._squares is None else self._squares + square
        return gradient / (self._squares.sqrt() + EPSILON)


class JoinedGuide(GradientGuide):
    """Several tasks in one batch, each guiding its own rows as it would alone. Their settings agree but for
    the tasks' targets (`GradientGuide.joins`)."""

    def __init__(self, guides: Sequence[GradientGuide]):
        first = guides[0]
        assert all(first.joins(guide) for guide in guides)
        self.guides, self.config, self._squares = list(guides), first.config, None
        self.first, self.guided_steps = first.first, first.guided_steps
        self.targets = [target for guide in guides for target in guide.targets]
        self.reads_x0, self.looks = any(guide.reads_x0 for guide in guides), first.looks

    def _loss(self, prediction: Prediction) -> Tensor:
        parts = prediction.split([len(guide.targets) for guide in self.guides])
        return torch.stack([guide._loss(part) for guide, part in zip(self.guides, parts, strict=True)]).sum()
