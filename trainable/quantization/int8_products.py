"""Products of int8 weights with activations of 8 bits, a scale per token, and which is fastest here.

Both take the same codes and give the same sums: `int_mm` multiplies int8 with int8 (torch's own), `fbgemm`
is FBGEMM's product for unsigned activations, told a scale and a zero point of ours, since by itself it takes
one scale for the whole batch. FBGEMM adds pairs of products in 16 bits on CPUs without VNNI, where full 8-bit
activations overflow (torch's module takes 7 bits for this reason): it is offered where it sums the largest
codes exactly. Narrow layers, for which making codes costs more than it saves, multiply the decoded weight
in float32 and round no activations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainable.compat import fbgemm_linear, int8_matmul, pack_fbgemm, unpack_fbgemm
from trainable.quantizers.blocks import SMALLEST

Name = Literal["int_mm", "fbgemm", "float32"]
FLOAT32: Name = "float32"
ROWS_TIMED = (8, 64)
"""Rows of activations that products are timed at: a few texts, and many."""
VALUES_TIMED = 1 << 22
"""Of the largest weight that is timed: of a larger one fewer outputs are. Making codes costs the same for few
outputs as for many, so that a small part of a weight would speak for float32."""
REPEATS, PASSES = 3, 8
"""Calls in a row, and how often: the fastest of them counts."""


class Int8Product(NamedTuple):
    """One way to multiply. `hold` makes what a layer keeps: arrays by name, and an object where it needs one.
    `multiply` takes rows [n, in], what is held and the scales [out]; `weight` gives the decoded weight."""

    hold: Callable[[Tensor, Tensor], tuple[dict[str, Tensor], Any]]
    multiply: Callable[[Tensor, dict[str, Tensor], Any], Tensor]
    weight: Callable[[dict[str, Tensor], Any], Tensor]


def token_scales(x: Tensor) -> Tensor:
    """[n, in] -> [n, 1]: each token's largest value becomes code 127."""
    return (x.abs().amax(1, keepdim=True) / 127).clamp_(min=SMALLEST)


def _exact_rows(x: Tensor, held: dict[str, Tensor], _: Any) -> Tensor:
    scale = token_scales(x)
    codes = (x / scale).round_().to(torch.int8)
    least = 17 if x.is_cuda else 0  # CUDA's product wants more than 16 rows
    if len(codes) < least:
        codes = nn.functional.pad(codes, (0, 0, 0, least - len(codes)))
    sums = int8_matmul(codes, held["codes"].t())[: len(x)]
    return sums.float().mul_(scale).mul_(held["scale"])


def _fbgemm(x: Tensor, held: dict[str, Tensor], packed: Any) -> Tensor:
    scale = token_scales(x)
    return fbgemm_linear(x / scale, packed).mul_(scale)


def _decoded(codes: Tensor, scale: Tensor) -> Tensor:
    return codes.float() * scale[:, None]


PRODUCTS: dict[Name, Int8Product] = {
    "int_mm": Int8Product(lambda codes, scale: ({"codes": codes, "scale": scale}, None), _exact_rows,
                          lambda held, _: _decoded(held["codes"], held["scale"])),
    "fbgemm": Int8Product(lambda codes, scale: ({"scale": scale}, pack_fbgemm(codes, scale)), _fbgemm,
                          lambda held, packed: _decoded(unpack_fbgemm(packed), held["scale"])),
}


@lru_cache(maxsize=1)
def fbgemm_is_exact() -> bool:
    """Whether this torch has FBGEMM's product and this CPU sums the largest codes with it exactly."""
    codes, width = torch.full((32, 256), 127, dtype=torch.int8), 256
    try:
        found = fbgemm_linear(torch.full((4, width), 127.0), pack_fbgemm(codes, torch.ones(32)))
    except (RuntimeError, AttributeError):  # built without it, or for another kind of processor
        return False
    return bool((found == 127.0 * 127 * width).all())


def offered(device: torch.device) -> list[Name]:
    """The products that are right on a device."""
    if device.type != "cpu":
        return ["int_mm"]
    return ["int_mm", "fbgemm", FLOAT32] if fbgemm_is_exact() else ["int_mm", FLOAT32]


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
