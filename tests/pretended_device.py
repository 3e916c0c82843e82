"""A device that is not there: tensors on it compute on the CPU, and are kept apart as those of a GPU are.

`There` is a tensor on the device. A function that is given tensors of both sides raises, as it would with a
GPU, unless it moves them; what it makes of tensors on the device is on the device, and so is what is made
with `device=DEVICE`. `Device` also tells how many bytes are there, and whose weights. Random generators of
the device and pinned memory are not pretended.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainable.models.backbone import Backbone
from trainable.models.placement import blocks_of

DEVICE = torch.device("hpu")
"""Of a type that nothing here computes on."""
INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
MOVING = (torch.Tensor.copy_,)


class There(torch.Tensor):
    """A tensor on the device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func == torch.Tensor.device.__get__:
            return DEVICE
        if func is torch.Tensor.numpy:
            raise TypeError("can't convert a tensor of another device to numpy")
        if func is torch.Tensor.cpu:
            return back(args[0])
        if func is torch.Tensor.to:
            return _moved(args, kwargs)
        here = [value for value in _tensors((args, kwargs)) if not isinstance(value, There) and value.ndim]
        if here and func not in MOVING and not (func in INDEXING and isinstance(args[0], There)):
            raise RuntimeError(f"{func.__name__}: tensors on two devices")
        with torch._C.DisableTorchFunctionSubclass():
            return _wrapped(func(*args, **kwargs))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _wrapped(value: Any) -> Any:
    if type(value) is Tensor:
        found = value.as_subclass(There)
        Device.made(found)
        return found
    if type(value) in (list, tuple):
        return type(value)(_wrapped(each) for each in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_wrapped, value))
    if isinstance(value, tuple):  # torch.return_types
        return type(value)([_wrapped(each) for each in value])
    return value


def back(value: Tensor) -> Tensor:
    """A copy on this side."""
    with torch._C.DisableTorchFunctionSubclass():
        return value.detach().as_subclass(Tensor).clone()


def _moved(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    value, told = args[0], [*args[1:], *kwargs.values()]
    device, dtype = value.device, value.dtype
    for each in told:
        if isinstance(each, Tensor):
            device, dtype = each.device, each.dtype
        elif isinstance(each, torch.dtype):
            dtype = each
        elif isinstance(each, torch.device | str):
            device = torch.device(each)
    with torch._C.DisableTorchFunctionSubclass():
        if device == (DEVICE if isinstance(value, There) else torch.device("cpu")):
            found = value.to(dtype, copy=bool(kwargs.get("copy")))
            return _wrapped(found) if isinstance(value, There) else found
        found = value.detach().as_subclass(Tensor).to(dtype, copy=True)
        return _wrapped(found) if device == DEVICE else found


class Device(TorchFunctionMode):
    """Inside, there is the device. `models`: whose weights are looked for at every product."""

    live: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}

    def __init__(self, *models: Backbone):
        super().__init__()
        self.models, self.most = models, 0
        self.seen: set[frozenset[str]] = set()
        """Which blocks had weights there at once, and `around` what lies around them."""
        Device.live.clear()

    @classmethod
    def made(cls, value: Tensor) -> None:
        storage = value.untyped_storage()
        cls.live[id(value)] = (weakref.ref(value), storage.data_ptr(), storage.nbytes())

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to:
            return _moved(args, kwargs)
        if func is torch.nn.functional.linear:
            self._look()
        if kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE:
            kwargs["device"] = "cpu"
            with torch._C.DisableTorchFunctionSubclass():
                return _wrapped(func(*args, **kwargs))
        return func(*args, **kwargs)

    def _look(self) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            Device.live = {key: entry for key, entry in Device.live.items() if entry[0]() is not None}
            self.most = max(self.most, sum({place: size for _, place, size in Device.live.values()}.values()))
            for model in self.models:
                self.seen.add(frozenset(_places(model)))


def _places(model: Backbone) -> Iterator[str]:
    blocks = blocks_of(model)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(value, There):
            yield next((block for block in blocks if name.startswith(f"{block}.")), "around")


def moved(value: Any) -> Any:
    """A named tuple of tensors, on the device."""
    return type(value)(*(None if each is None else each.to(DEVICE) for each in value))


def on_device(model: nn.Module) -> nn.Module:
    """All of a model on the device, as `model.to(device)` would have it."""
    for module in model.modules():
        for leaf, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            there = value.detach().to(DEVICE)
            setattr(module, leaf, nn.Parameter(there, requires_grad=False)
                    if isinstance(value, nn.Parameter) else there)
    return model
