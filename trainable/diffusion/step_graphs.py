"""A training step's functions as graphs: the same operations on the same numbers, and so the same gradients,
without the Python between them (see `trainable.models.traced`), which is a good part of a small model's step.

Weights are inputs of a graph, since they change with every step and ask for gradients. Quantizers have
gradients of their own, which are Python: they act outside, once a step and weight. So do adapters of small
layers: W + B A is made once a step, and is one product where a layer with an adapter takes three.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainable import compat
from trainable.models.backbone import Backbone
from trainable.models.lora import ADAPTER
from trainable.models.traced import can_be_traced
from trainable.quantization.sites import FakeQuant, fake_of, master_of

WORTH = 32
"""Steps of a run that is worth graphs: each takes a forward pass to make."""
MERGED = 128 * 128
"""Values of a weight whose adapter is added to it: in larger ones the gradient of the sum takes longer than
the products that it saves."""


class Runs(Protocol):
    """How the functions of a step run."""

    def __call__(self, name: str, function: Callable[..., Any], *tensors: Tensor) -> Any:
        """`function(*tensors)`. Beside these it reads the model's weights alone; `name` says which it is and
        what else decides on its operations."""


def directly(name: str, function: Callable[..., Any], *tensors: Tensor) -> Any:
    """As it is."""
    return function(*tensors)


def trains_as_graphs(model: Backbone) -> bool:
    """Not where a model cannot be traced, or has blocks that are computed again for their gradients."""
    return can_be_traced(model) and not any("forward" in vars(module) for module in model.modules())


class _Weight:
    """One weight as a graph is given it: quantized, its adapter added."""

    def __init__(self, module: nn.Module, fake: FakeQuant | None, adapted: Any):
        self.module, self.fake, self.adapted, self.master = module, fake, adapted, master_of(module)

    def now(self) -> Tensor:
        """With gradients to what it is made of."""
        weight = self.master
        if self.fake is not None:
            held = self.fake.held
            weight = self.fake(weight) if held is None or self.fake.learns(weight) else held
        if self.adapted is None:
            return weight
        factors = self.adapted.lora_B[ADAPTER].weight, self.adapted.lora_A[ADAPTER].weight
        return torch.addmm(weight, *factors, alpha=self.adapted.scaling[ADAPTER])

    def behind(self) -> list[Tensor]:
        """What it is made of, which graphs do not read."""
        found = [] if self.fake is None else [
            *self.module.get_submodule("parametrizations").state_dict(keep_vars=True).values()]
        if self.adapted is not None:
            found += [self.adapted.lora_A[ADAPTER].weight, self.adapted.lora_B[ADAPTER].weight]
        return found if self.fake is not None else [*found, self.master]


def _weights(model: Backbone) -> list[_Weight]:
    """Those that are not read as they stand."""
    small = {id(module.base_layer): module for module in model.modules() if _merges(module)}
    made = ((module, fake_of(module), small.get(id(module))) for module in model.modules())
    return [_Weight(*each) for each in made if each[1] is not None or each[2] is not None]


def _merges(module: Any) -> bool:
    """Whether a module is peft's plain LoRA on a small Linear."""
    base = getattr(module, "base_layer", None)
    return (isinstance(base, nn.Linear) and base.in_features * base.out_features <= MERGED
            and ADAPTER in getattr(module, "lora_A", ()) and not module.lora_variant
            and not isinstance(module.lora_dropout[ADAPTER], nn.Dropout))


class StepGraphs:
    """The graphs of one model that trains, by name and shapes. `begin` each step."""

    def __init__(self, model: Backbone):
        self.model = model
        self._graphs: dict[Any, Callable[..., Any]] = {}
        self._made = _weights(model)
        behind = {id(value) for each in self._made for value in each.behind()}
        self._plain = [value for value in [*model.parameters(), *model.buffers()] if id(value) not in behind]
        self._now: list[Tensor] = []

    def begin(self) -> None:
        """Read the weights as they are now."""
        self._now = [*self._plain, *(each.now() for each in self._made)]

    def __call__(self, name: str, function: Callable[..., Any], *tensors: Tensor) -> Any:
        """See `Runs`."""
        key = (name, *(value.shape for value in tensors))
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._traced(function, tensors)
        with compat.as_traced():
            return graph(*tensors, *self._now)

    def _traced(self, function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Callable[..., Any]:
        count = len(tensors)

        def whole(*inputs: Tensor) -> Any:
            weights = inputs[count:]
            own = {id(value): given for value, given in zip(self._plain, weights, strict=False)}
            with ExitStack() as stack:
                for each, given in zip(self._made, weights[len(self._plain):], strict=True):
                    if each.fake is None:
                        own[id(each.master)] = given
                    else:
                        stack.callback(setattr, each.fake, "held", each.fake.held)
                        each.fake.held = given
                    if each.adapted is not None:
                        each.adapted.merged_adapters.append(ADAPTER)
                        stack.callback(each.adapted.merged_adapters.clear)
                stack.enter_context(compat.replaced(self.model, own))
                return function(*inputs[:count])

        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout draws from the global one
            return compat.trace(whole, [value.detach() for value in (*tensors, *self._now)])
