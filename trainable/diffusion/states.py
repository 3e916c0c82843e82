"""Corrupted states of either process with what is known of them: what models are calibrated and compared on.

The noise level of a state is a number in [0, 1], t / levels of its process: the time of Gaussian diffusion,
the masked
share of masked diffusion (the latter read from the state where a sampler made it).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainable.diffusion.process import Process, Sampling
from trainable.models.backbone import Backbone
from trainable.models.prediction import Prediction

BELIEFS = 1 << 27
"""Values of an array [B, L, V], at most: half a GB as float32, a GB as float64."""


class States(NamedTuple):
    """Rows that a backbone can read. All on one device."""

    state: Tensor
    """[B, L] ids with MASK among them, or [B, L, d] noisy latents."""
    t: Tensor
    """[B] int64, of 0 .. levels - 1."""
    level: Tensor
    """[B] float32 in [0, 1]."""
    corrupted: Tensor
    """[B, L] bool: positions whose word the state does not show. All of them under Gaussian noise."""
    previous: Tensor | None = None
    """[B, L, d] the model's last guess, where it is told one."""

    def rows(self, which: Tensor | slice) -> States:
        """Some of the rows."""
        return States(self.state[which], self.t[which], self.level[which], self.corrupted[which],
                      None if self.previous is None else self.previous[which])

    def split(self, size: int) -> list[States]:
        """Batches of at most `size` rows."""
        return [self.rows(slice(start, start + size)) for start in range(0, len(self.t), size)]


def rows_at_once(model: Backbone, states: States, most: int) -> int:
    """How many of some states a model is shown at a time: `most`, or fewer where its vocabulary is so large
    that beliefs about all of their tokens would be what fills the device."""
    tables = [model.get_submodule(name) for name in model.sites()["embedding"]]
    vocabulary = max((getattr(table, "num_embeddings", 1) for table in tables), default=1)
    return max(1, min(most, BELIEFS // (vocabulary * states.state.shape[1])))


def joined(parts: list[States]) -> States:
    """Rows of several batches."""
    previous = [part.previous for part in parts if part.previous is not None]
    return States(torch.cat([part.state for part in parts]), torch.cat([part.t for part in parts]),
                  torch.cat([part.level for part in parts]), torch.cat([part.corrupted for part in parts]),
                  torch.cat(previous) if previous else None)


def spread(count: int, levels: int, process: Process) -> Tensor:
    """Times of `count` rows, evenly over `levels` noise levels in turn: the middles of equal parts of [0,
    1]. Int64."""
    middle = (torch.arange(count) % levels + 0.5) / levels
    return (middle * process.levels).long()


@torch.no_grad()
def corrupted(
    model: Backbone, process: Process, ids: Tensor, t: Tensor, generator: torch.Generator
) -> States:
    """Texts [B, L] at times t [B]; a model with self-conditioning is told its own first guess, as samplers
    tell it."""
    state = process.corrupt(model, ids, t, generator)
    found = States(state, t, t.float() / process.levels, hidden(model, state))
    if not getattr(model.params, "self_conditioning", False):
        return found
    return found._replace(previous=model.predict(state, t).x0)


def hidden(model: Backbone, state: Tensor) -> Tensor:
    """Positions [B, L] whose word the state does not show."""
    mask = getattr(model, "mask_id", None)
    return (
        torch.ones(state.shape[:2], dtype=torch.bool, device=state.device) if mask is None else state == mask
    )


@torch.no_grad()
def visited(
    model: Backbone, process: Process, sampling: Sampling, count: int, length: int, generator: torch.Generator
) -> States:
    """Every state that `count` generations pass through, in order of the steps; self-conditioning as the
    sampler has it."""
    found: list[States] = []
    with _recorded(model, process, found):
        sampling.sample(count, length, generator)
    return joined(found)


@contextmanager
def _recorded(model: Backbone, process: Process, found: list[States]) -> Iterator[None]:
    """Inside, what the model is asked about is kept, whether a sampler calls `predict` or the module
    itself."""
    told = bool(getattr(model.params, "self_conditioning", False))
    plain = model.predict

    def keep(state: Tensor, t: Tensor | None, previous: Tensor | None) -> None:
        open_ = hidden(model, state)
        level = open_.float().mean(1) if t is None else t.float() / process.levels
        time = (level * process.levels).long().clamp(max=process.levels - 1) if t is None else t
        if told and previous is None:
            previous = torch.zeros_like(model.embed(state) if state.ndim == 2 else state)
        found.append(
            States(
                state.clone(), time, level, open_, previous.clone() if told and previous is not None else None
            )
        )

    def predict(
        state: Tensor, t: Tensor, previous: Tensor | None = None, *rest: Any, **named: Any
    ) -> Prediction:
        keep(state, t, previous)
        return plain(state, t, previous, *rest, **named)

    def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        at = dict(zip(("ids", "at", "previous"), args, strict=False)) | named
        keep(at["ids"], None, at.get("previous"))

    # A network that is called as a module is called on rows of words: latents go through `predict`.
    model.predict = predict  # type: ignore[method-assign]
    handle = model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        del model.predict
