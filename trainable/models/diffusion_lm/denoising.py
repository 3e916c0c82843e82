"""The denoiser as samplers ask it: many times at one shape and temperature, at times that are known ahead.

What no step changes is computed once (the rows of the table and of the times), and what is not asked for is
not computed. Numbers are those of `DiffusionLM.predict`, but that a time's row is computed once for all
texts. Runs as graphs where the model can (`trainable.models.traced`): the same numbers bit for bit.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainable import compat
from trainable.models.diffusion_lm.embedding import nearest_rows
from trainable.models.prediction import Prediction
from trainable.models.traced import traces_of

if TYPE_CHECKING:
    from trainable.models.diffusion_lm.denoiser import DiffusionLM


class Denoising:
    """One model with the weights that it has now; used inside `at_rest` and `running` alone."""

    def __init__(self, model: DiffusionLM, length: int, temperature: float, clamp: bool):
        self.model, self.clamp = model, clamp
        self._settings = (length, temperature, clamp)
        self._table, self._places = model.table(), model.positions(length)
        self._logits = model.rounding.at(self._table, temperature)
        self._traces = traces_of(model)

    def running(self) -> AbstractContextManager[Any]:
        """To be entered around all calls of one generation."""
        return compat.as_traced()

    def rows(self, times: Tensor) -> list[Tensor]:
        """[S] times -> S rows [1, 1, hidden], which all texts share."""
        return list(self.model.time_rows(times)[:, None].unbind(0))

    def guess(self, x: Tensor, row: Tensor, previous: Tensor | None, condition: Tensor | None,
              ahead: int = 0) -> Tensor:
        """The clean latents [B, L, d] that are expected of latents x [B, L, d] at the time of `row`.

        `previous`, for self-conditioning, and `condition` as the model takes them. `ahead`: how many calls
        of this kind will follow.
        """
        found: Tensor = self._run("guess", x, row, previous, condition, ahead)
        return found

    def words(self, x: Tensor, row: Tensor, previous: Tensor | None, condition: Tensor | None) -> Tensor:
        """[B, L, V] log-posterior over words."""
        found: Tensor = self._run("words", x, row, previous, condition, 0)
        return found

    def prediction(self, x: Tensor, row: Tensor, previous: Tensor | None, condition: Tensor | None,
                   with_x0: bool, ahead: int = 0) -> Prediction:
        """All of it, differentiable in x; the clean latents only where they are asked for."""
        raw, hidden, *x0 = self._run("whole" if with_x0 else "raw", x, row, previous, condition, ahead)
        return Prediction.of_latents(raw, self._logits, hidden, x0[0] if x0 else None)

    def _run(self, what: str, x: Tensor, row: Tensor, previous: Tensor | None, condition: Tensor | None,
             ahead: int) -> Any:
        if self.model.params.self_conditioning and previous is None:
            previous = torch.zeros_like(x)
        given = [value for value in (previous, condition) if value is not None]
        told = condition is not None

        def function(x: Tensor, row: Tensor, *given: Tensor) -> Any:
            return self._computed(what, x, row, given[0] if len(given) > told else None,
                                  given[-1] if told else None)

        if self._traces is None:
            return function(x, row, *given)
        key = (what, self._settings, x.shape, None if condition is None else condition.shape)
        return self._traces.call(self.model, key, function, (x, row, *given), ahead)

    def _computed(self, what: str, x: Tensor, row: Tensor, previous: Tensor | None,
                  condition: Tensor | None) -> Any:
        hidden = self.model.state(x, row, self._places, previous, condition)
        raw = self.model.down(hidden)
        if what == "guess":
            return self._x0(raw)
        if what == "words":
            return self._logits(raw).log_softmax(-1)
        return (raw, hidden, self._x0(raw)) if what == "whole" else (raw, hidden)

    def _x0(self, raw: Tensor) -> Tensor:
        if self.model.diffusion.loss == "ce":
            return self.model.expected(self._logits(raw).softmax(-1), self._table)
        if not self.clamp:
            return raw
        return raw + (nearest_rows(raw, self._table) - raw).detach()
