"""Products of int8 weights with activations of 8 or 7 bits, a scale per token, and which is fastest here.

Both take the same codes and give the same sums: `int_mm` multiplies int8 with int8 (torch's own, by oneDNN),
`fbgemm` is FBGEMM's product for unsigned activations, told a scale and a zero point of ours, since by itself
it takes one scale for the whole batch. On CPUs without VNNI `int_mm` is plain loops, and FBGEMM adds pairs of
products in 16 bits, where full 8-bit activations overflow: a product is offered where it has instructions for
its sums, and those of the largest codes are exact. With 7 bits FBGEMM is: codes of -63 to 63 are 1 to 127
with its zero point, times weights of -127 to 127 two of them are at most 32,258, and 16 bits hold 32,767.
Narrow layers, for which making codes costs more than it saves, multiply the decoded weight in float32 and
round no activations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainable.compat import (
    fbgemm_linear,
    int8_matmul,
    int8_matmul_serves,
    pack_fbgemm,
    unpack_fbgemm,
)
from trainable.quantizers.blocks import SMALLEST

Name = Literal["int_mm", "fbgemm", "float32"]
FLOAT32: Name = "float32"
Bits = Literal[8, 7]
BITS: tuple[Bits, ...] = (8, 7)
"""Widths of activations."""
ROWS_TIMED = (8, 64)
"""Rows of activations that products are timed at: a few texts, and many."""
VALUES_TIMED = 1 << 22
"""Of the largest weight that is timed: of a larger one fewer outputs are. Making codes costs the same for few
outputs as for many, so that a small part of a weight would speak for float32."""
REPEATS, PASSES = 3, 8
"""Calls in a row, and how often: the fastest of them counts."""


class Int8Product(NamedTuple):
    """One way to multiply. `hold` makes what a layer keeps: arrays by name, and an object where it needs one.
    `multiply` takes rows [n, in], what is held (arrays, object) and the bits of activations; `codes` gives
    back the codes [out, in]."""

    hold: Callable[[Tensor, Tensor], tuple[dict[str, Tensor], Any]]
    multiply: Callable[[Tensor, dict[str, Tensor], Any, Bits], Tensor]
    codes: Callable[[dict[str, Tensor], Any], Tensor]


def largest_code(bits: Bits) -> int:
    """Codes are symmetric: 127 of 8 bits, 63 of 7."""
    return (1 << bits - 1) - 1


def token_scales(x: Tensor, bits: Bits = 8) -> Tensor:
    """[n, in] -> [n, 1]: each token's largest value becomes the largest code."""
    return (x.abs().amax(1, keepdim=True) / largest_code(bits)).clamp_(min=SMALLEST)


def _exact_rows(x: Tensor, held: dict[str, Tensor], _: Any, bits: Bits) -> Tensor:
    scale = token_scales(x, bits)
    codes = (x / scale).round_().to(torch.int8)
    least = 17 if x.is_cuda else 0  # CUDA's product wants more than 16 rows
    if len(codes) < least:
        codes = nn.functional.pad(codes, (0, 0, 0, least - len(codes)))
    sums = int8_matmul(codes, held["codes"].t())[: len(x)]
    return sums.float().mul_(scale).mul_(held["scale"])


def _fbgemm(x: Tensor, held: dict[str, Tensor], packed: Any, bits: Bits) -> Tensor:
    scale = token_scales(x, bits)
    return fbgemm_linear(x / scale, packed, 1 << bits - 1).mul_(scale)


PRODUCTS: dict[Name, Int8Product] = {
    "int_mm": Int8Product(lambda codes, scale: ({"codes": codes, "scale": scale}, None), _exact_rows,
                          lambda held, _: held["codes"]),
    "fbgemm": Int8Product(lambda codes, scale: ({"scale": scale}, pack_fbgemm(codes, scale)), _fbgemm,
                          lambda _, packed: unpack_fbgemm(packed)),
}


@lru_cache(maxsize=len(BITS))
def fbgemm_is_exact(bits: Bits = 8) -> bool:
    """Whether this torch has FBGEMM's product and this CPU sums the largest codes with it exactly."""
    weights, width, code = torch.full((32, 256), 127, dtype=torch.int8), 256, float(largest_code(bits))
    try:
        found = fbgemm_linear(torch.full((4, width), code), pack_fbgemm(weights, torch.ones(32)),
                              1 << bits - 1)
    except (RuntimeError, AttributeError):  # built without it, or for another kind of processor
        return False
    return bool((found == code * 127 * width).all())


def offered(device: torch.device, bits: Bits = 8) -> list[Name]:
    """The products that are right on a device with activations of so many bits. On a CPU float32 is the last
    and may be the only one."""
    if device.type != "cpu":
        return ["int_mm"]
    able: list[Name] = ["int_mm"] if int8_matmul_serves() else []
    return [*able, "fbgemm", FLOAT32] if fbgemm_is_exact(bits) else [*able, FLOAT32]


def widths(device: torch.device) -> list[Bits]:
    """The widths of activations for which a device has an integer product."""
    return [bits for bits in BITS if offered(device, bits) != [FLOAT32]]


def choose(seconds: Mapping[Name, Sequence[float]]) -> Name:
    """By times at several numbers of rows: of the integer products that are at least as fast as float32 at
    each, the one with the least product of times; float32 where there is none."""
    able = [name for name, taken in seconds.items() if name != FLOAT32
            and all(own <= other for own, other in zip(taken, seconds[FLOAT32], strict=True))]
    return min(able, key=lambda name: math.prod(seconds[name]), default=FLOAT32)


@torch.no_grad()
def timed(layers: Mapping[Name, nn.Module], width: int) -> dict[Name, list[float]]:
    """Seconds of layers [.., width] -> [.., out] at each of `ROWS_TIMED`: the fastest of a few calls, layers
    in turns. With one thread they are the CPU's, so that other work on the machine does not decide."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    noise = torch.Generator().manual_seed(0)
    found: dict[Name, list[float]] = {name: [] for name in layers}
    for rows in ROWS_TIMED:
        x = torch.randn(rows, width, generator=noise)
        best = dict.fromkeys(layers, math.inf)
        for _ in range(PASSES):
            for name, layer in layers.items():
                layer(x)  # so that its weight is in the cache
                for _ in range(REPEATS):
                    began = clock()
                    layer(x)
                    best[name] = min(best[name], clock() - began)
        for name, taken in best.items():
            found[name].append(taken)
    return found
