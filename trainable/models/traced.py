"""A backbone's functions as graphs of one shape: the same operations on the same numbers, without the Python
between them, which is most of the time that a small model takes.

Graphs belong to a model and hold its weights as they were: they are dropped when any of them has changed.
What does not pass through Python alike for all inputs says so: a module with `traceable = False` (layers
that multiply codes by functions of their own, or that follow the noise level) keeps its model as it is.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from trainable import compat

if TYPE_CHECKING:
    from trainable.models.backbone import Backbone

Form = Literal["traced", "eager"]
WORTH = 32
"""Calls of a shape before it is traced: making a graph takes about as long as it saves in so many."""
KEPT = 12
"""Graphs of a model: a few batch sizes, each free and guided."""


class Traces:
    """The graphs of one model, those used last."""

    def __init__(self) -> None:
        self.off = False
        """Whether the model runs as it is for the time being."""
        self.at_once = False
        """Whether every shape is worth a graph."""
        self._graphs: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
        self._asked: Counter[Hashable] = Counter()
        self._weights: list[tuple[Tensor, int]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Traces:
        return Traces()  # of a copy of the model, which has weights of its own

    def __len__(self) -> int:
        return len(self._graphs)

    def check(self, model: nn.Module) -> None:
        """Drop all graphs where the model has other weights than they have."""
        weights = [(value, compat.version(value)) for value in _tensors(model)]
        same = len(weights) == len(self._weights) and all(
            new is old and version == before
            for (new, version), (old, before) in zip(weights, self._weights, strict=True))
        if not same:
            self._graphs.clear()
            self._asked.clear()
            self._weights = weights

    def call(self, model: nn.Module, key: Hashable, function: Callable[..., Any], inputs: Sequence[Tensor],
             ahead: int) -> Any:
        """`function(*inputs)`, by its graph where there is one or where it is worth one: `ahead` calls of
        this kind will follow. `key` names the function, its settings and the shapes of its inputs. The model
        must have been checked since its weights last changed, and `compat.as_traced` be entered."""
        graph = self._graphs.get(key)
        if graph is None:
            self._asked[key] += 1
            if self._asked[key] + ahead < WORTH and not self.at_once:
                return function(*inputs)
            graph = self._graphs[key] = traced(model, function, inputs)
            if len(self._graphs) > KEPT:
                dropped, _ = self._graphs.popitem(last=False)
                del self._asked[dropped]
        else:
            self._graphs.move_to_end(key)
        return graph(*inputs)


def traced(model: nn.Module, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """The graph of a function that reads a model's weights, for inputs of these shapes; differentiable in
    its inputs. Asks each parameter for no gradient meanwhile."""
    asking = [value for value in model.parameters() if value.requires_grad]
    for value in asking:
        value.requires_grad_(False)
    try:
        with torch.no_grad():
            return compat.trace(function, [value.detach() for value in inputs])
    finally:
        for value in asking:
            value.requires_grad_(True)


def form(model: Backbone) -> Form:
    """How a model's functions run where they are called often."""
    return "eager" if traces_of(model) is None else "traced"


def can_be_traced(model: Backbone) -> bool:
    """Not on a GPU, with a module that cannot be traced, or while somebody watches its modules."""
    if not getattr(model, "traceable", False) or model.noise is not None or "predict" in vars(model):
        return False
    return next(model.parameters()).device.type == "cpu" and not any(
        not getattr(module, "traceable", True) or compat.is_watched(module)
        for module in model.modules())


def traces_of(model: Backbone) -> Traces | None:
    """The graphs of a model, checked against its weights; None where it runs as it is."""
    if not can_be_traced(model) or _held(model).off:
        return None
    held = _held(model)
    held.check(model)
    return held


@contextmanager
def as_it_is(models: Sequence[Backbone]) -> Iterator[None]:
    """Inside, none of these models runs as a graph."""
    with _set(models, off=True):
        yield


@contextmanager
def alike(models: Sequence[Backbone]) -> Iterator[Form]:
    """Inside, where times are taken, all run as graphs from the first call on where each of them can, and as
    they are where one cannot: which of the two."""
    able = all(can_be_traced(model) for model in models)
    with _set(models, off=not able, at_once=able):
        yield "traced" if able else "eager"


@contextmanager
def _set(models: Sequence[Backbone], **flags: bool) -> Iterator[None]:
    held = [_held(model) for model in models]
    before = [{name: getattr(each, name) for name in flags} for each in held]
    try:
        for each in held:
            vars(each).update(flags)
        yield
    finally:
        for each, values in zip(held, before, strict=True):
            vars(each).update(values)


def _held(model: Backbone) -> Traces:
    found: Traces = vars(model).setdefault("_traces", Traces())
    return found


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and the values that a quantizer holds for a weight meanwhile."""
    for module in model.modules():
        yield from module.parameters(recurse=False)
        yield from module.buffers(recurse=False)
        held = vars(module).get("held")
        if isinstance(held, Tensor):
            yield held
