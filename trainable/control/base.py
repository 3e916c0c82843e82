"""What a control task is: targets to ask for, a differentiable loss to steer by, and an oracle that scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainable.control.lexicon import Lexicon
from trainable.model.prediction import Prediction
from trainable.registry import Params

Target = dict[str, Any]
"""What one sentence is asked to be. JSON-able; `row` is the held-out row that it was drawn from, where there is one."""


class ControlTask(ABC):
    """One kind of control. A subclass has `name`, a one-sentence docstring and `Params`.

    A task that needs a trained controller keeps it to itself: everything goes through `loss`.
    """

    name: ClassVar[str]
    Params: ClassVar[type[Params]] = Params

    def __init__(self, params: Params):
        self.params = params

    @abstractmethod
    def targets(self, corpus, n: int, generator: torch.Generator) -> list[Target]:
        """`n` targets drawn from the held-out split of `corpus` (a `TokenizedCorpus`).

        Raises `UserError` when the corpus has nothing to draw from.
        """

    @abstractmethod
    def loss(self, prediction: Prediction, targets: list[Target], corpus) -> Tensor:
        """[B] how far each sentence is from its target, differentiable in the latent through `prediction`.

        `corpus` is only asked for `encode(words)`, so a `Lexicon` serves as well.
        """

    @abstractmethod
    def score(self, words: list[str], target: Target) -> dict[str, float]:
        """`success` (0 or 1) and whatever else tells how near `words` came."""

    @abstractmethod
    def oracle(self, target: Target) -> str:
        """What decides about success. Scores by different oracles are never comparable."""

    @abstractmethod
    def keys(self, lexicon: Lexicon) -> list[str]:
        """The words that may stand before `=` in a written control."""

    @abstractmethod
    def parse(self, key: str, value: str, lexicon: Lexicon) -> Target:
        """The target written as `key=value`, `key` being one of `keys`. Raises `UserError` naming what is legal."""
