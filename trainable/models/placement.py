"""Where the weights of a model are while it computes: all of them on its device, or one block at a time.

A model that does not fit a device is left where it was loaded, and a block of its body is on the device
while it runs: bringing one sends the one before home. What lies around the blocks (tables, projections, head,
norms) is there inside `around` alone. GPTQ tools do the same (llm-compressor's sequential onloading).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spaces.errors import UserError
from trainable.models.backbone import Backbone

COPIES = 4
"""Of a model as float32 that an ordinary trial holds at a time or one after the other: the trial's own, the
one that is rounded, the one that is measured and its base. Statistics come on top."""


def offloads(asked: bool | None, base: Backbone, device: torch.device) -> bool:
    """Whether models like `base` are calibrated block by block on `device`: as is `asked`, else where a GPU
    has no room for all that is held otherwise."""
    if asked is not None or device.type != "cuda":
        return bool(asked)
    total: int = torch.cuda.get_device_properties(device).total_memory
    return base.block_by_block and COPIES * sizes(base).whole > total


class Placement:
    """Of a model all of which is on its device: nothing moves."""

    def around(self) -> AbstractContextManager[None]:
        """Inside, the model can be run as a whole."""
        return nullcontext()

    def at(self, block: str) -> AbstractContextManager[None]:
        """Inside, a block or what lies around the blocks can be worked on; running others may take its
        place, and running it again brings it back."""
        return nullcontext()

    def home(self, value: Tensor) -> Tensor:
        """A tensor that is not needed for now, where there is room for it."""
        return value

    def here(self, value: Tensor) -> Tensor:
        """The reverse of `home`."""
        return value

    def close(self) -> None:
        """The model is not worked on any more."""


class _Moved(NamedTuple):
    home: Tensor
    here: Tensor


class _Part:
    """Modules whose tensors come and go together."""

    def __init__(self, modules: Callable[[], Iterator[nn.Module]]):
        """`modules`: those that there are now, since layers are replaced as they are rounded."""
        self.modules = modules
        self.moved: dict[tuple[int, str], _Moved] = {}

    def tensors(self) -> list[tuple[nn.Module, str, Tensor]]:
        """Parameters and buffers with their places."""
        return [(module, leaf, value) for module in self.modules()
                for found in (module.named_parameters, module.named_buffers)
                for leaf, value in found(recurse=False, remove_duplicate=False)]


class Streamed(Placement):
    """Of a model whose weights stay where they are; on `device`, as `dtype` where that is given, are those of
    one block at most. A weight that is replaced there goes home in its place."""

    def __init__(self, model: Backbone, device: torch.device, dtype: torch.dtype | None = None):
        """Raises `UserError` for a model whose blocks are not run as such."""
        if not model.block_by_block:
            raise UserError(f"calibration.offload: model {model.name} does not run block by block; "
                            "legal: false")
        self.device, self.dtype, self.origin = device, dtype, next(model.parameters()).device
        blocks = blocks_of(model)
        inside = set(blocks.values())
        self._blocks = {name: _Part(block.modules) for name, block in blocks.items()}
        self._around = _Part(lambda: outside(model, inside))
        self._there: _Part | None = None
        self._depth = 0
        self._handles = [block.register_forward_pre_hook(lambda *_, part=part: self._bring(part))
                         for block, part in zip(blocks.values(), self._blocks.values(), strict=True)]

    @contextmanager
    def around(self) -> Iterator[None]:
        """What lies around the blocks is there; blocks come as they are run."""
        self.settle()
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._leave(self._around)

    def settle(self) -> None:
        """Bring what lies around the blocks, for good."""
        if not self._depth:
            self._come(self._around)
        self._depth += 1

    @contextmanager
    def at(self, block: str) -> Iterator[None]:
        """A block, by name, or the name of anything around the blocks."""
        if block not in self._blocks:
            with self.around():
                yield
            return
        self._bring(self._blocks[block])
        yield

    def home(self, value: Tensor) -> Tensor:
        """Where the weights were loaded."""
        return value.to(self.origin)

    def here(self, value: Tensor) -> Tensor:
        """On the device."""
        return value.to(self.device)

    def close(self) -> None:
        """Everything goes home, and stays there."""
        for handle in self._handles:
            handle.remove()
        for part in (self._there, self._around):
            if part is not None:
                self._leave(part)
        self._there, self._depth = None, 0

    def _bring(self, part: _Part) -> None:
        if self._there is not part:
            if self._there is not None:
                self._leave(self._there)
            self._come(part)
            self._there = part

    def _come(self, part: _Part) -> None:
        shared: dict[int, Tensor] = {}  # a tensor with two names is one on the device too
        for module, leaf, value in part.tensors():
            if id(value) not in shared:
                shared[id(value)] = self._on_device(value)
            here = shared[id(value)]
            if here is not value:
                part.moved[id(module), leaf] = _Moved(value, here)
                setattr(module, leaf, here)

    def _on_device(self, value: Tensor) -> Tensor:
        dtype = self.dtype if self.dtype is not None and value.is_floating_point() else value.dtype
        if value.device == self.device and value.dtype == dtype:
            return value
        return _like(value, value.detach().to(self.device, dtype))

    def _leave(self, part: _Part) -> None:
        """What was moved is what it was; what has been replaced since is moved."""
        for module, leaf, value in part.tensors():
            moved = part.moved.get((id(module), leaf))
            if moved is not None and value is moved.here:
                setattr(module, leaf, moved.home)
            elif value.device != self.origin:
                setattr(module, leaf, _like(value, value.detach().to(self.origin)))
        part.moved.clear()


def _like(value: Tensor, moved: Tensor) -> Tensor:
    return nn.Parameter(moved, requires_grad=False) if isinstance(value, nn.Parameter) else moved


def blocks_of(model: Backbone) -> dict[str, nn.Module]:
    """The blocks of a body by name, in order: members of its outermost lists."""
    found: dict[str, nn.Module] = {}

    def look(module: nn.Module, name: str) -> None:
        for leaf, child in module.named_children():
            if isinstance(module, nn.ModuleList):
                found[f"{name}.{leaf}"] = child
            else:
                look(child, f"{name}.{leaf}")

    look(model.body, "body")
    return found


def outside(model: nn.Module, blocks: set[nn.Module]) -> Iterator[nn.Module]:
    """All modules of a model but some, and what is in those."""
    yield model
    for child in model.children():
        if child not in blocks:
            yield from outside(child, blocks)


class Sizes(NamedTuple):
    """Bytes on the device as float32."""

    around: int
    block: int
    """The largest."""
    whole: int


def sizes(model: Backbone) -> Sizes:
    """Of a model's parameters, which may be on the meta device."""
    blocks = [sum(value.numel() for value in block.parameters()) for block in blocks_of(model).values()]
    whole = sum(value.numel() for value in model.parameters())
    return Sizes(4 * (whole - sum(blocks)), 4 * max(blocks, default=0), 4 * whole)
