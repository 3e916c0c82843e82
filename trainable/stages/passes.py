"""Calibration states shown to one block of a model after another.

The blocks of a body follow one another: what the first is fed is computed once, and each block's outputs are
the next one's inputs, so that a pass over the states costs one block and not the model up to it. Blocks for
which that does not hold (projections around the body) are fed by running the model as far as them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from spaces.errors import UserError
from trainable.diffusion.states import States
from trainable.models.backbone import Backbone
from trainable.models.placement import Placement
from trainable.quantization.post_training.block import Watch


class _Enough(Exception):  # noqa: N818 - no error
    """All that is watched has been fed: the rest of the pass is of no use."""


class _Row:
    """The blocks of one ModuleList, what the next of them is fed, and what else each is told."""

    def __init__(self, names: Sequence[str], place: Placement):
        self.names, self.next, self.place = list(names), 0, place
        self.hidden: list[Tensor] = []
        self.told: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {name: [] for name in names}

    def step(self, model: nn.Module, number: int) -> Tensor:
        """A batch through the next block: its outputs."""
        name = self.names[self.next]
        rest, named = self.told[name][number]
        out = model.get_submodule(name)(self.place.here(self.hidden[number]), *rest, **named)
        return out[0] if isinstance(out, tuple) else out

    def move(self, model: nn.Module, number: int) -> None:
        """The same, kept as what the block after the next is fed."""
        self.hidden[number] = self.place.home(self.step(model, number))


class Passes:
    """`model` on `batches`, block after block (`quantization.post_training.block.Feed`)."""

    def __init__(self, model: Backbone, batches: Sequence[States], blocks: Sequence[str], full: bool = False,
                 place: Placement | None = None):
        """`full`: the model as it is now is asked about too (`as_before`). `place`: of the model. Raises
        `UserError` where it cannot be asked, because its blocks do not follow one another."""
        self.model, self.batches, self.number = model, batches, 0
        self.place = place or Placement()
        self.weights: list[Tensor | None] = [None] * len(batches)
        self._lists = {block: _list_of(model, block) for block in blocks}
        self._rows: dict[str, _Row | None] = {}
        self._before: dict[str, _Row] = {}
        for parent in dict.fromkeys(name for name in self._lists.values() if name and full):
            row = self._recorded(parent)
            if row is None:
                raise UserError("calibration.corrections: tac needs a body whose blocks follow one another")
            self._before[parent] = row

    def token_weights(self, block: str, number: int) -> Tensor | None:
        """Of a batch; see `weights`."""
        return self.weights[number]

    def reach(self, block: str) -> None:
        """Compute what a block is fed, if that is not known yet."""
        self._row(block)

    def run(self, block: str, watch: Watch) -> None:
        """Show all batches to a block as it is now, as far as what is watched."""
        row = self._row(block)
        for number, batch in enumerate(self.batches):
            self.number = number
            with _watching(self.model, watch, stop=True):
                try:
                    if row is None:
                        with self.place.around():
                            self.model.predict(batch.state, batch.t, batch.previous)
                    else:
                        self._show(batch)
                        row.step(self.model, number)
                except _Enough:
                    continue

    def as_before(self, block: str, watched: str | None) -> list[Tensor]:
        """Inputs of a module of the block, batch by batch, in the model as it was at first. Blocks are asked
        about in order, each before it is rounded."""
        parent = self._lists[block]
        if parent is None:
            return []
        row = self._before[parent]
        found: list[Tensor] = []
        self._reach(row, block)
        for number, batch in enumerate(self.batches):
            self._show(batch)
            with _watching(self.model, {watched: lambda x: found.append(self.place.home(x))}
                           if watched else {}):
                row.move(self.model, number)
        row.next += 1
        return found

    def _row(self, block: str) -> _Row | None:
        parent = self._lists[block]
        if parent is None:
            return None
        if parent not in self._rows:
            self._rows[parent] = self._recorded(parent)
        row = self._rows[parent]
        if row is not None:
            self._reach(row, block)
        return row

    def _reach(self, row: _Row, block: str) -> None:
        """Move all batches through the blocks before this one."""
        while row.names[row.next] != block:
            for number, batch in enumerate(self.batches):
                self._show(batch)
                row.move(self.model, number)
            row.next += 1

    def _show(self, batch: States) -> None:
        if self.model.noise is not None:
            self.model.noise.show(*self.model.noise_of(batch.state, batch.t))

    def _recorded(self, parent: str) -> _Row | None:
        """One pass of the whole model; None where a block is not fed what the one before it returned, or is
        told what it may change."""
        found = _Row([f"{parent}.{name}" for name, _ in self.model.get_submodule(parent).named_children()],
                     self.place)
        follows, last = True, None

        def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], name: str) -> None:
            nonlocal follows
            first = name == found.names[0]
            follows = follows and bool(args) and isinstance(args[0], Tensor) and (first or args[0] is last)
            follows = follows and _fixed(args) and _fixed(list(named.values()))
            if first and follows:
                found.hidden.append(self.place.home(args[0]))
            found.told[name].append((args[1:], named))

        def after(_: nn.Module, __: tuple[Any, ...], out: Any) -> None:
            nonlocal last
            last = out[0] if isinstance(out, tuple) else out

        handles = []
        for name in found.names:
            module = self.model.get_submodule(name)
            handles += [module.register_forward_pre_hook(
                lambda module, args, named, name=name: before(module, args, named, name), with_kwargs=True),
                module.register_forward_hook(after)]
        try:
            with self.place.around():
                for batch in self.batches:
                    self.model.predict(batch.state, batch.t, batch.previous)
        finally:
            for handle in handles:
                handle.remove()
        once = all(len(calls) == len(self.batches) for calls in found.told.values())
        return found if follows and once else None


def _fixed(told: Any) -> bool:
    """Whether a block can be told this again: numbers and tensors, but no cache that it would write to."""
    if isinstance(told, list | tuple):
        return all(_fixed(each) for each in told)
    return told is None or isinstance(told, Tensor | bool | int | float | str)


def _list_of(model: Backbone, block: str) -> str | None:
    """The ModuleList that a block (`body.layer.0`) is a member of, by name; None where it is of none."""
    parent = block.rpartition(".")[0]
    return parent if parent and isinstance(model.get_submodule(parent), nn.ModuleList) else None


@contextmanager
def _watching(model: nn.Module, watch: Watch, stop: bool = False) -> Iterator[None]:
    """Inside, `watch` is called with the inputs of its modules; when all have been fed the pass may stop."""
    left = set(watch)

    def call(name: str, x: Tensor, seen: Callable[[Tensor], None]) -> None:
        seen(x)
        left.discard(name)
        if stop and not left:
            raise _Enough

    handles = [model.get_submodule(name).register_forward_pre_hook(
        lambda _, args, name=name, seen=seen: call(name, args[0], seen)) for name, seen in watch.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
