"""What steers a generation from inside: a call after every denoising step.

There are two kinds, named as in `evaluation.guidance.by`; a process says in `Process.guides` which it takes,
and tests/trainable/diffusion/test_guide_contract.py runs each on each process that takes it. Classifier-free
guidance needs none: it is `Sampling.under`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Tensor

from spaces.errors import UserError
from trainable.models.prediction import Prediction


class Rows(Protocol):
    """What a guide may know of the texts at work, beside their posterior."""

    @property
    def ids(self) -> Tensor:
        """[B, L] tokens; MASK where none is decided yet."""

    @property
    def masked(self) -> Tensor:
        """[B, L] bool: positions that are not decided yet."""

    @property
    def rows(self) -> Tensor | None:
        """[B] numbers of the texts that these rows are: finished ones leave the batch."""

    @property
    def step(self) -> int:
        """Passes so far."""


class Guide(ABC):
    """Either kind. It may keep a state over the steps of one generation."""

    by: ClassVar[str]
    """The word of `evaluation.guidance.by` for its kind."""


class LatentGuide(Guide):
    """Moves the latents of a continuous process, usually down a gradient."""

    by = "gradient"
    reads_x0 = True
    """Whether it reads the clean latents of predictions; where not, `predict` may leave them out."""
    looks = 1
    """Predictions that it asks for after each step."""

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor, mean: Tensor, sigma: Tensor | float,
                 predict: Callable[[Tensor, Tensor], Prediction], step: int) -> Tensor:
        """Latents [B, L, d] at times t [B], drawn from N(mean, sigma^2) in step `step` (from 0) -> the same,
        guided; `x` itself where there is nothing to do. `predict` is differentiable in its latents."""


class TokenGuide(Guide):
    """Reweighs the posterior of tokens before any is drawn."""

    by = "reweight"

    @abstractmethod
    def __call__(self, log_probs: Tensor, rows: Rows) -> Tensor:
        """[B, L, V] log-posterior of each position, in which decided positions are sure of their token -> the
        same with weights added. It is normalized afterwards; -inf forbids a token, but not
        all of a position."""


def refused(guide: object, process: str, legal: str) -> UserError:
    """The error for a guide of a kind that a process does not take."""
    given = f"by {guide.by}" if isinstance(guide, Guide) else f"of type {type(guide).__name__}"
    return UserError(f"diffusion {process}: takes no guide {given}; legal: by {legal}")
