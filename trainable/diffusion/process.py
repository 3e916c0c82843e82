"""What a diffusion process is: how text is corrupted, what is learned from it, how text is drawn and bounded.

A process is one folder here and one line in `trainable.registry.PROCESSES`;
tests/trainable/diffusion/test_process_contract.py then runs it. Its noise schedule is a private matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from spaces.config import SamplingConfig
from trainable import registry
from trainable.diffusion.guide import Guide
from trainable.diffusion.noise import Noise
from trainable.models.backbone import Backbone

M = TypeVar("M", bound=Backbone)
"""The backbones that a process is for."""


class Samples(NamedTuple):
    """`ids` [n, L]; `passes` [n] int64: forward passes of the backbone that each text took part in (NFE,
    number of function evaluations). A text that is told a condition and goes beyond it takes two a look."""

    ids: Tensor
    passes: Tensor


class Traced(NamedTuple):
    """What texts cost, by count: `passes` [k] of each of them, `flops` of one of them in the mean."""

    passes: Tensor
    flops: float


class Sampling(Protocol):
    """One backbone under one `SamplingConfig`: draws texts."""

    config: SamplingConfig

    @property
    def model(self) -> Backbone:
        """The network that texts are drawn from."""

    @property
    def steps(self) -> int:
        """Denoising steps of a generation, at most."""

    def sample(self, n: int, length: int, generator: Noise, guide: Guide | None = None,
               prompt: Tensor | None = None) -> Tensor:
        """`n` texts of `length` positions: ids [n, length] (START ... END PAD), on the model's device.

        `prompt` [n, length] holds ids that are kept, -1 where the text is free. `generator`: one, or, under a
        process that is led by gradients, one for each of several shares of the texts. Raises `UserError` for
        a guide or a prompt that the process does not take.
        """

    def generate(self, n: int, length: int, generator: Noise, guide: Guide | None = None,
                 prompt: Tensor | None = None) -> Samples:
        """As `sample`, with the passes that each text took, those that a guide asked for among them."""

    def under(self, condition: Tensor, scale: float) -> Sampling:
        """The same for n texts that the model is told `condition` [n, K, L] of, `scale` beyond
        it (0 = as told)."""

    def traced(self, length: int) -> Traced:
        """Passes of some texts of `length` positions, and floating-point operations of the matrix products
        of one, guidance not counted: one text where all take as many passes."""


class Drawing(ABC):
    """What every `Sampling` here has from its `generate`."""

    @abstractmethod
    def generate(self, n: int, length: int, generator: Noise, guide: Guide | None = None,
                 prompt: Tensor | None = None) -> Samples:
        """See `Sampling.generate`."""

    def sample(self, n: int, length: int, generator: Noise, guide: Guide | None = None,
               prompt: Tensor | None = None) -> Tensor:
        """The ids of `generate` alone, [n, length]; see `Sampling.sample`."""
        return self.generate(n, length, generator, guide, prompt).ids


class Trainable(Protocol):
    """What a training run makes small: a diffusion process, or whatever else has a loss of its model."""

    def loss(self, model: Any, ids: Tensor, generator: torch.Generator,
             condition: Tensor | None = None) -> dict[str, Tensor]:
        """Parts of the loss of ids [B, L]; "loss" is what is differentiated."""


class Process(ABC, Generic[M]):
    """How texts become noise and come back. A subclass has `name`, a one-sentence docstring and `Params`."""

    name: ClassVar[str]
    Params: ClassVar[type[registry.Params]]
    samplers: ClassVar[registry.Registry[Any]]
    """The samplers that can draw from it."""
    guides: ClassVar[tuple[str, ...]]
    """Values of `evaluation.guidance.by` that it offers."""

    def __init__(self, params: Any):
        self.params = params

    @property
    @abstractmethod
    def levels(self) -> int:
        """Noise levels: times are 0 .. levels - 1, noisier upwards."""

    @property
    def averages(self) -> bool:
        """Whether `loss` is a mean over tokens: each counts more in a batch that is cut to fewer of them."""
        return True

    @abstractmethod
    def loss(self, model: M, ids: Tensor, generator: torch.Generator,
             condition: Tensor | None = None) -> dict[str, Tensor]:
        """One draw of times and noise for ids [B, L]. Scalars: `loss` to differentiate, and its parts."""

    def training(self, model: M, steps: int) -> Trainable:
        """What gives the losses of one model that trains so many steps, alone and on a CPU: this process, or
        what gives the same numbers in less time."""
        return self

    @abstractmethod
    def corrupt(self, model: M, ids: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """ids [B, L] at times t [B] or [B, L] -> the state that the backbone reads."""

    @abstractmethod
    def sampling(self, model: M, config: SamplingConfig) -> Sampling:
        """Drawing from `model`. Raises `UserError` for a sampler that is not one of `samplers`."""

    @abstractmethod
    def bound(self, model: M, ids: Tensor, count: int,
              generator: torch.Generator) -> dict[str, Tensor]:
        """Parts of an upper bound on -log p(ids), nats per text [B] (float64, CPU), by `count`
        draws of the time."""
