"""Formats of the transformer body after training, with the matrix products that run on their codes.

A quantizer on a site is trained with; these are not: the trained body, adapter merged, is rounded once at
export, and the exported model computes with the codes. That is where latency and memory come from. Products
are torch's own (`_int_mm`, `_weight_int8pack_mm`, `_weight_int4pack_mm_for_cpu`), so no other library is
needed to run an artifact. Where a device or a shape has no product for a format, the weights are decoded
to float32 at load.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from trainable import registry
from trainable.compat import int4_weight_matmul, int8_weight_matmul, multiplies_bf16
from trainable.quantization.int4_panels import int4_panels
from trainable.quantizers.base import IntegerGroups, Part, check_size, finite32
from trainable.quantizers.blocks import SMALLEST, best_scale
from trainable.quantizers.packing import bits_bytes, pack_bits, unpack_bits

ROWS = 128
"""Rows of activations that a CPU multiplies at once: temporaries fit its cache and add little to the
memory of a model."""

Shape = tuple[int, int]
Product = Callable[[Tensor, "CodedLinear"], Tensor]
"""[rows, in] and the layer -> [rows, out] float32."""


class BodyFormat(ABC):
    """How a Linear of the body is stored and multiplied. Weights are [out, in]."""

    name: ClassVar[str]
    Params: ClassVar[type[registry.Params]] = registry.Params

    def __init__(self, params: registry.Params):
        self.params = params

    @classmethod
    def examples(cls) -> Sequence[registry.Params]:
        """Parameter sets that the contract tests run."""
        return [cls.Params()]

    @abstractmethod
    def layout(self, shape: Shape) -> dict[str, Part]:
        """Every array that `encode` gives; all are 1-D."""

    @abstractmethod
    def encode(self, w: Tensor) -> dict[str, Tensor]:
        """Float weight -> arrays of `layout`. Raises ValueError on NaN or infinity."""

    @abstractmethod
    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """Arrays -> float32 weight. Raises ValueError where they do not fit `shape`."""

    def integer_groups(self, parts: dict[str, Tensor], shape: Shape) -> IntegerGroups | None:
        """What `decode` gives, bit for bit, as whole numbers times scales, where it is that."""
        return None

    def runs(self, shape: Shape, device: torch.device) -> bool:
        """Whether there is a product for this shape on this device."""
        return False

    def linear(self, parts: dict[str, Tensor], shape: Shape, bias: Tensor | None) -> nn.Module:
        """A layer that computes with the codes; call only where `runs`."""
        raise NotImplementedError(f"{self.name} has no product of its own")

    def checked(self, parts: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
        """`parts` itself when it holds exactly the arrays of `layout`, else ValueError."""
        for name, part in self.layout(shape).items():
            if name not in parts or parts[name].dtype != part.dtype:
                raise ValueError(f"{self.name}: expected {name} as {part.dtype}")
            check_size(parts[name], part.count, f"{self.name} {name}, shape {shape}")
        return parts


class Float32(BodyFormat):
    """The body stays float32."""

    name = "float32"

    def layout(self, shape: Shape) -> dict[str, Part]:
        return {"codes": Part(torch.float32, math.prod(shape))}

    def encode(self, w: Tensor) -> dict[str, Tensor]:
        return {"codes": finite32(w).flatten()}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        return self.checked(parts, shape)["codes"].view(shape)


class BFloat16(Float32):
    """Weights and products in bfloat16: half of float32, and no other rounding."""

    name = "bfloat16"

    def layout(self, shape: Shape) -> dict[str, Part]:
        return {"codes": Part(torch.bfloat16, math.prod(shape))}

    def encode(self, w: Tensor) -> dict[str, Tensor]:
        return {"codes": finite32(w).bfloat16().flatten()}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        return self.checked(parts, shape)["codes"].view(shape).float()

    def runs(self, shape: Shape, device: torch.device) -> bool:
        return True

    def linear(self, parts: dict[str, Tensor], shape: Shape, bias: Tensor | None) -> nn.Module:
        return CodedLinear(self, parts, shape, bias, _bf16_product)


class Int8Weight(BodyFormat):
    """Weights as int8 with a scale per output, multiplied with bfloat16 activations: a quarter
    of the bytes."""

    name = "int8_weight"

    def layout(self, shape: Shape) -> dict[str, Part]:
        return {"codes": Part(torch.int8, math.prod(shape)), "scale": Part(torch.float32, shape[0])}

    def encode(self, w: Tensor) -> dict[str, Tensor]:
        values = finite32(w)
        scale = (values.abs().amax(1, keepdim=True) / 127).clamp(min=SMALLEST)
        return {"codes": (values / scale).round_().clamp_(-127, 127).to(torch.int8).flatten(),
                "scale": scale.flatten()}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        parts = self.checked(parts, shape)
        return parts["codes"].view(shape).float() * parts["scale"][:, None]

    def integer_groups(self, parts: dict[str, Tensor], shape: Shape) -> IntegerGroups:
        parts = self.checked(parts, shape)
        return IntegerGroups(parts["codes"].view(shape), parts["scale"][:, None], None, 8)

    def runs(self, shape: Shape, device: torch.device) -> bool:
        return device.type == "cpu" and shape[0] % 16 == 0 and shape[1] % 16 == 0

    def linear(self, parts: dict[str, Tensor], shape: Shape, bias: Tensor | None) -> nn.Module:
        held = {**parts, "codes": aligned(parts["codes"]), "scale_bf16": parts["scale"].bfloat16()}
        return CodedLinear(self, held, shape, bias, _int8_weight_product)


class Int4Params(registry.Params):
    group: Literal[32, 64, 128] = Field(64, description="values of a row that share a scale")
    scale: Literal["absmax", "mse"] = Field("mse", description="absmax: the largest |w| fits; mse: "
                                            "least squared error")


class Int4Weight(BodyFormat):
    """Weights as 15 levels with a bfloat16 scale per group, multiplied with bfloat16 activations:
    an eighth of the bytes."""

    name = "int4_weight"
    Params = Int4Params
    params: Int4Params

    @classmethod
    def examples(cls) -> list[Int4Params]:
        return [Int4Params(), Int4Params(group=32, scale="absmax")]

    def _groups(self, shape: Shape) -> int:
        """Groups of a row; the last may be short."""
        return -(-shape[1] // self.params.group)

    def layout(self, shape: Shape) -> dict[str, Part]:
        return {"codes": Part(torch.uint8, bits_bytes(math.prod(shape), 4)),
                "scale": Part(torch.bfloat16, shape[0] * self._groups(shape))}

    def encode(self, w: Tensor) -> dict[str, Tensor]:
        values, group = finite32(w), self.params.group
        blocks = nn.functional.pad(values, (0, -values.shape[1] % group)).view(-1, group)
        scale = (blocks.abs().amax(1, keepdim=True) / 7).clamp(min=SMALLEST)
        if self.params.scale == "mse":
            scale = best_scale(blocks, scale, _fifteen)
        stored = scale.bfloat16()
        codes = (_fifteen(blocks / stored.float()) + 7).view(len(values), -1)[:, : values.shape[1]]
        return {"codes": pack_bits(codes.flatten().int(), 4), "scale": stored.flatten()}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        parts = self.checked(parts, shape)
        levels = unpack_bits(parts["codes"], 4, math.prod(shape)).view(shape).float() - 7
        scale = parts["scale"].float().view(shape[0], -1).repeat_interleave(self.params.group, 1)
        return levels * scale[:, : shape[1]]

    def integer_groups(self, parts: dict[str, Tensor], shape: Shape) -> IntegerGroups | None:
        if shape[1] % self.params.group:
            return None  # the last of a row is short
        parts = self.checked(parts, shape)
        levels = (unpack_bits(parts["codes"], 4, math.prod(shape)) - 7).to(torch.int8)
        return IntegerGroups(levels.view(shape), parts["scale"].float().view(shape[0], -1), None, 4)

    def runs(self, shape: Shape, device: torch.device) -> bool:
        return device.type == "cpu" and shape[0] % 32 == 0 and shape[1] % self.params.group == 0

    def linear(self, parts: dict[str, Tensor], shape: Shape, bias: Tensor | None) -> nn.Module:
        parts = self.checked(parts, shape)
        scale = parts["scale"].view(shape[0], -1).t()
        held = {"codes": int4_panels(parts["codes"], shape),
                "scale": torch.stack([scale, torch.zeros_like(scale)], -1).contiguous()}
        return CodedLinear(self, held, shape, bias, _int4_product)


def aligned(array: Tensor) -> Tensor:
    """`array` itself, or a copy where it does not begin at a multiple of 64 bytes:
    `_weight_int8pack_mm` would crash.

    A file that is mapped into memory gives such arrays.
    """
    return array if array.data_ptr() % 64 == 0 else array.clone()


def _fifteen(scaled: Tensor) -> Tensor:
    return scaled.round().clamp_(-7, 7)


class CodedLinear(nn.Module):
    """A Linear on codes. Its gradient towards the input is the float layer's, of the decoded weight: where
    codes are whole numbers to 127 or bfloat16 and the device has instructions for it, by a product of them in
    bfloat16, which rounds what comes in and what comes out."""

    traceable = False
    codes: Tensor
    scale: Tensor
    scale_bf16: Tensor
    bias: Tensor | None

    def __init__(self, form: BodyFormat, parts: dict[str, Tensor], shape: Shape, bias: Tensor | None,
                 product: Product):
        super().__init__()
        self.form, self.shape, self.product = form, shape, product
        self.out_features, self.in_features = shape
        for name, value in {**parts, "bias": bias}.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        rows = x.reshape(-1, self.in_features)
        return _Product.apply(rows, self).view(*x.shape[:-1], self.out_features)

    def weight_float(self) -> Tensor:
        """The decoded weight, made anew: only gradients (guidance) need it."""
        if self.product is not _int4_product:
            return self.form.decode(dict(self.named_buffers()), self.shape)
        rows = self.product(torch.eye(self.in_features, device=self.codes.device), self)
        return (rows if self.bias is None else rows - self.bias).t()

    def plain(self) -> tuple[Tensor, Tensor | None] | None:
        """Codes [out, in] that bfloat16 holds exactly, and the scale [out] of each output if they have one;
        None where the layer has none."""
        if self.product is _bf16_product:
            return self.codes.view(self.shape), None
        if self.product is _int8_weight_product:
            return self.codes.view(self.shape), self.scale
        return None

    def gradient(self, grad: Tensor) -> Tensor:
        """Float32 [rows, out] -> [rows, in]: times the weight."""
        if multiplies_bf16(grad.device) and (held := self.plain()) is not None:
            codes, scale = held
            grad = grad if scale is None else grad * scale
            return (grad.bfloat16() @ codes.bfloat16()).float()
        return grad @ self.weight_float()

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.form.name}"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: CodedLinear) -> Tensor:
        ctx.layer = layer
        if len(rows) <= ROWS or rows.is_cuda:
            return layer.product(rows, layer)
        out = rows.new_empty(len(rows), layer.out_features)
        for start in range(0, len(rows), ROWS):
            out[start:start + ROWS] = layer.product(rows[start:start + ROWS], layer)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.gradient(grad), None


def biased(out: Tensor, layer: CodedLinear) -> Tensor:
    """Products [rows, out] plus the layer's bias, in place."""
    return out if layer.bias is None else out.add_(layer.bias)


def _bf16_product(x: Tensor, layer: CodedLinear) -> Tensor:
    return biased(nn.functional.linear(x.bfloat16(), layer.codes.view(layer.shape)).float(), layer)


def _int8_weight_product(x: Tensor, layer: CodedLinear) -> Tensor:
    out = int8_weight_matmul(x.bfloat16(), layer.codes.view(layer.shape), layer.scale_bf16)
    return biased(out.float(), layer)


def _int4_product(x: Tensor, layer: CodedLinear) -> Tensor:
    form = cast(Int4Weight, layer.form)
    out = int4_weight_matmul(x.bfloat16(), layer.codes, form.params.group, layer.scale)
    return biased(out.float(), layer)
