"""How phrases that a target asks for come into a text under reweighting: what is drawn before the text is
filled in, a part at a time.

A plan is one file here and one line in `trainable.registry.PHRASES`; `trainable.control.settling` asks the
model and has parts drawn, tests/trainable/control/test_phrases.py runs each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trainable import registry
from trainable.control.layouts import Layout

if TYPE_CHECKING:
    from trainable.control.base import ControlTask


class Part(ABC):
    """One thing to draw for a text, given the model's log-posterior [L, V] of all positions. It changes the
    text's layout, and nothing else."""

    @abstractmethod
    def draw(self, layout: Layout, log_probs: Tensor, generator: torch.Generator) -> None:
        """Draw it."""

    @abstractmethod
    def lift(self, layout: Layout) -> None:
        """Take back what was drawn."""

    def unsureness(self, layout: Layout, log_probs: Tensor) -> float:
        """Nats of the choice: the surest part goes first."""
        return 0.0


class PhrasePlan(ABC):
    """A subclass has `name`, a one-sentence docstring and `Params`."""

    name: ClassVar[str]
    Params: ClassVar[type[registry.Params]] = registry.Params
    at_once: ClassVar[bool] = False
    """All parts of a text are drawn from one look of the model at it; else a look for each."""
    def __init__(self, params: registry.Params):
        self.params = params

    @property
    def sweeps(self) -> int:
        """Times that each part of a text with several is drawn again, given all others."""
        return 0

    @abstractmethod
    def parts(self, layout: Layout, task: ControlTask, power: float) -> list[Part]:
        """What is drawn for the phrases of a layout. `task` knows the counts, `power` is the exponent of
        weights on words. A phrase that training text never showed is left to chance."""
