"""The body format `int8_dynamic`: int8 weights, activations rounded by token, integer products.

Which product multiplies is settled when a model is loaded, layer by layer: see `int8_products`.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from trainable import registry
from trainable.quantization import int8_products
from trainable.quantization.body_formats import BodyFormat, CodedLinear, Int8Weight, Shape, biased


class Int8DynamicParams(registry.Params):
    product: Literal["fastest", "int_mm", "fbgemm", "float32"] = Field(
        "fastest", description="what multiplies: int_mm, fbgemm (each on a CPU that sums the codes exactly "
                               "with it), float32 on decoded weights; fastest: timed when a model is loaded")
    activation_bits: int8_products.Bits = Field(
        8, description="bits of a token's activations; with 7, twice their error, x86 CPUs without VNNI "
                       "have an integer product too")


class Int8Dynamic(Int8Weight):
    """Weights as int8 with a scale per output, activations rounded to int8 by a scale per token:
    integer products."""

    name = "int8_dynamic"
    Params = Int8DynamicParams
    params: Int8DynamicParams

    @classmethod
    def examples(cls) -> list[Int8DynamicParams]:
        return [Int8DynamicParams(), Int8DynamicParams(product="int_mm"),
                Int8DynamicParams(product="fbgemm"), Int8DynamicParams(product="float32"),
                Int8DynamicParams(activation_bits=7), Int8DynamicParams(product="fbgemm", activation_bits=7)]

    def runs(self, shape: Shape, device: torch.device) -> bool:
        # CUDA's product wants multiples of 8.
        return device.type == "cpu" or device.type == "cuda" and shape[0] % 8 == 0 and shape[1] % 8 == 0

    def linear(self, parts: dict[str, Tensor], shape: Shape, bias: Tensor | None) -> nn.Module:
        device, name, bits = parts["codes"].device, self.params.product, self.params.activation_bits
        able = int8_products.offered(device, bits)
        if name == "fastest":
            name = fastest_int8(shape, torch.get_num_threads(), bits) if device.type == "cpu" else able[0]
        elif name not in able:
            name = able[0]
        if name == int8_products.FLOAT32:
            return DecodedLinear(self.decode(parts, shape), bias)
        return Int8Linear(self, name, parts, shape, bias, bits)


@lru_cache(maxsize=512)
def fastest_int8(shape: Shape, threads: int, bits: int8_products.Bits = 8) -> int8_products.Name:
    """The product for int8 weights [out, in] and activations of so many bits on this CPU by a short timing,
    once for a process; of a large weight a part is timed. `threads`: as many as torch has. Never one that is
    slower than float32."""
    names, width = int8_products.offered(torch.device("cpu"), bits), shape[1]
    if len(names) == 1:
        return names[0]
    out = max(1, min(shape[0], int8_products.VALUES_TIMED // width))
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(0))
    layers: dict[int8_products.Name, nn.Module] = {}
    for name in names:
        form = Int8Dynamic(Int8DynamicParams(product=name, activation_bits=bits))
        layers[name] = form.linear(form.encode(weight), (out, width), torch.zeros(out))
    return int8_products.choose(int8_products.timed(layers, width))


def products(model: nn.Module) -> dict[str, int]:
    """How many layers of a running model use which product of int8 codes, `float32` those that gave up."""
    return dict(Counter(layer.product_name for layer in model.modules()
                        if isinstance(layer, Int8Linear | DecodedLinear)))


class Int8Linear(CodedLinear):
    """A Linear on int8 weights and activations, multiplied by one of `int8_products`."""

    def __init__(self, form: BodyFormat, name: int8_products.Name, parts: dict[str, Tensor], shape: Shape,
                 bias: Tensor | None, bits: int8_products.Bits = 8):
        kernel = int8_products.PRODUCTS[name]
        held, packed = kernel.hold(parts["codes"].view(shape), parts["scale"])
        super().__init__(form, held, shape, bias, _int8_product)
        self.kernel, self.product_name, self.packed, self.held = kernel, name, packed, tuple(held)
        self.bits: int8_products.Bits = bits
        self._unpacked: Tensor | None = None

    def arrays(self) -> dict[str, Tensor]:
        """What the product works on."""
        return {name: self.get_buffer(name) for name in self.held}

    def weight_float(self) -> Tensor:
        return self.kernel.codes(self.arrays(), self.packed).float() * self.scale[:, None]

    def plain(self) -> tuple[Tensor, Tensor]:
        """See `CodedLinear`. Packed codes are unpacked once, by the first gradient, and stay beside: a byte a
        weight."""
        if self.packed is None:
            return self.kernel.codes(self.arrays(), None), self.scale
        if self._unpacked is None:
            self._unpacked = self.kernel.codes(self.arrays(), self.packed)
        return self._unpacked, self.scale

    def extra_repr(self) -> str:
        short = "" if self.bits == 8 else f", activations of {self.bits} bits"
        return f"{super().extra_repr()}, {self.product_name}{short}"


class DecodedLinear(nn.Linear):
    """An int8 weight, decoded: float32 is faster here, or no integer product is right."""

    product_name = int8_products.FLOAT32

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)


def _int8_product(x: Tensor, layer: CodedLinear) -> Tensor:
    own = cast(Int8Linear, layer)
    return biased(own.kernel.multiply(x, own.arrays(), own.packed, own.bits), layer)
