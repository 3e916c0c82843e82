"""A frozen, quantized body held as codes alone while adapters on it train (QLoRA, arXiv 2305.14314).

As a rule a quantized weight keeps its float master, and its quantized values beside it while nothing changes
them: 8 bytes a value, and fast. Here the codes are all that is kept. Forward and backward decode a weight
where they need it, some rows at a time, and autograd keeps none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainable.quantization.sites import fake_of, master_of
from trainable.quantizers.base import Quantizer, shape_of
from trainable.quantizers.lookup import row_runs

PIECE, LARGE = {"cpu": 1 << 16}, 1 << 24
"""Values that are decoded at once, on a CPU and elsewhere."""


class FrozenLinear(nn.Linear):
    """A Linear whose weight is the codes of a quantizer; only its input has a gradient."""

    traceable = False

    def __init__(self, quantizer: Quantizer, packed: dict[str, Tensor], shape: tuple[int, int],
                 bias: nn.Parameter | None):
        nn.Module.__init__(self)  # nn.Linear's own would make the float weight
        self.quantizer, self.shape, self.parts = quantizer, shape, tuple(packed)
        self.out_features, self.in_features = shape
        for name, value in packed.items():  # no parameters, and no part of a state dict: nothing sets them
            self.register_buffer(name, value, persistent=False)
        self.register_parameter("bias", bias)

    @property
    def packed(self) -> dict[str, Tensor]:
        """The stored arrays, as `Quantizer.encode` gives them."""
        return {name: self.get_buffer(name) for name in self.parts}

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # computed anew, where others hold it
        """[out, in] float32, decoded."""
        return self.quantizer.decode(self.packed, self.shape)

    @property
    def bytes(self) -> int:
        """Of the stored arrays."""
        return sum(value.numel() * value.element_size() for value in self.packed.values())

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        out: Tensor = _Product.apply(input, self)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def rows(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Runs of outputs, and the decoded weight [run, in] of each."""
        values = PIECE.get(self.get_buffer(self.parts[0]).device.type, LARGE)
        step = max(1, values // self.in_features)
        for run, weight in row_runs(self.quantizer, self.packed, self.shape, step):
            yield run, weight.to(dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.quantizer.label}"


class _Product(torch.autograd.Function):
    """x W^T with W decoded anew, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        out = x.new_empty(*x.shape[:-1], layer.out_features)
        for run, weight in layer.rows(x.dtype):
            out[..., run] = x @ weight.T
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layer: FrozenLinear = ctx.layer
        found = grad.new_zeros(*grad.shape[:-1], layer.in_features)
        for run, weight in layer.rows(grad.dtype):
            found += grad[..., run] @ weight
        return found, None


@torch.no_grad()
def hold_codes(model: nn.Module) -> int:
    """Put a `FrozenLinear` in the place of every quantized Linear that no training step can change; returns
    how many values they have. Linears that train, or whose quantizer learns, stay as they are."""
    count = 0
    for name, module in list(model.named_modules()):
        fake = fake_of(module)
        if not isinstance(module, nn.Linear) or fake is None or fake.learns(master_of(module)):
            continue
        master = master_of(module).detach()
        packed = fake.quantizer.encode(master, fake.learned or None)
        model.set_submodule(name, FrozenLinear(fake.quantizer, packed, shape_of(master), module.bias))
        count += master.numel()
    return count


def frozen_linears(model: nn.Module) -> dict[str, FrozenLinear]:
    """Those of a model by name, in its order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FrozenLinear)}
