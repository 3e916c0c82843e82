"""What torch and transformers have under private names alone, each behind a function of ours, so that
a change upstream is met in one place.

Read in the versions below; tests/trainable/test_compat.py says what each has to do.
"""

from __future__ import annotations

import copy
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

TORCH, TRANSFORMERS = "2.13", "5.23"
"""Seen in."""


def int8_matmul(codes: Tensor, weights: Tensor) -> Tensor:
    """int8 [n, k] times int8 [k, m] -> int32 [n, m], summed exactly, but for CPUs that
    oneDNN uses a part of: see `int8_matmul_serves`. CUDA takes more than 16 rows."""
    return torch._int_mm(codes, weights)


@lru_cache(maxsize=1)
def int8_matmul_serves() -> bool:
    """Whether this CPU has instructions for `int8_matmul` and sums the largest codes exactly. On x86 without
    AVX-512 VNNI torch multiplies in plain loops: exactly, and many times slower than floats. Where a CPU has
    them and oneDNN is told to do without (ONEDNN_MAX_CPU_ISA), it makes the first operand unsigned by adding
    128 and adds pairs of products in 16 bits, which saturate (`findings/int_mm_saturates.sh`)."""
    if platform.machine().lower() in ("x86_64", "amd64") and not torch.cpu._is_vnni_supported():
        return False
    whole, width = torch.full((64, 256), 127, dtype=torch.int8), 256
    return all(bool((int8_matmul(codes, sign * whole.t()) == sign * 127 * 127 * width).all())
               for codes in (whole, whole[:1]) for sign in (1, -1))


def pack_fbgemm(codes: Tensor, scale: Tensor) -> Any:
    """int8 [m, k] with a scale [m] a row, in FBGEMM's layout. Raises RuntimeError where torch lacks it."""
    zeros = torch.zeros(len(scale), dtype=torch.long)
    with warnings.catch_warnings():  # that torch will drop quantized tensors one day: met here, not by users
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
        weight = torch._make_per_channel_quantized_tensor(codes.contiguous(), scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(weight, None)


def unpack_fbgemm(packed: Any) -> Tensor:
    """The codes that `pack_fbgemm` was given, int8 [m, k]."""
    return torch.ops.quantized.linear_unpack(packed)[0].int_repr()


def fbgemm_linear(x: Tensor, packed: Any, zero: int = 128) -> Tensor:
    """float32 [n, k] times the transpose of the packed weight -> float32 [n, m]: x is rounded to whole
    numbers (beyond -zero to 255 - zero it is cut), which are summed in int32 and scaled by row of the weight.
    FBGEMM multiplies them with `zero` added, unsigned."""
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(x, 1.0, zero, packed)


def int8_weight_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """bf16 [n, k] times the transpose of int8 [m, k] with a bf16 scale [m] a row -> bf16 [n, m]."""
    return torch._weight_int8pack_mm(x, codes, scale)


def pack_int4(codes: Tensor) -> Tensor:
    """int32 codes [m, k] in 0..15, whose zero is 8, in the layout of `int4_weight_matmul` ->
    uint8 [m, k / 2]."""
    return torch._convert_weight_to_int4pack_for_cpu(codes, 1)


def int4_weight_matmul(x: Tensor, packed: Tensor, group: int, scale: Tensor) -> Tensor:
    """bf16 [n, k] times the transpose of packed 4-bit [m, k] -> bf16 [n, m], on a CPU. `scale`: scale and
    zero of each `group` of inputs, bf16 [k / group, m, 2]."""
    return torch._weight_int4pack_mm_for_cpu(x, packed, group, scale)


def trace(function: Callable[..., Any], example: Sequence[Tensor]) -> Callable[..., Any]:
    """The operations that a function of tensors runs on `example`, as a graph that runs them without Python,
    differentiably. Tensors that it reads beside its arguments belong to the graph and must not ask for
    gradients. What Python decides by the shapes of the arguments stays as it is for the example's; torch
    warns of that as it would of what values decide, so that its warnings tell nothing here.

    torch 2.13 calls `torch.jit` deprecated in favor of its compiler, which needs a C++ compiler at hand where
    there is no GPU, and under Python 3.14 not supported; that graphs compute there bit for bit what modules
    do is tested as under other Pythons.
    """
    with warnings.catch_warnings(), torch.jit.optimized_execution(False):
        warnings.filterwarnings("ignore", message=".*torch.jit.* is (deprecated|not supported).*")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        return torch.jit.trace(function, tuple(example), check_trace=False)


@contextmanager
def replaced(module: nn.Module, tensors: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside, parameters and buffers below `module` are these tensors instead, by the id of what stands in
    their place. `torch.func.functional_call`, which refuses to be traced."""
    stores = [cast(dict[str, Any], store) for part in module.modules()
              for store in (part._parameters, part._buffers)]
    held = [(store, name, value) for store in stores for name, value in store.items() if id(value) in tensors]
    try:
        for store, name, value in held:
            store[name] = tensors[id(value)]
        yield
    finally:
        for store, name, value in held:
            store[name] = value


def is_watched(module: torch.nn.Module) -> bool:
    """Whether anything is called before or after its forward pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def version(tensor: Tensor) -> int:
    """How often a tensor has been changed in place."""
    return tensor._version


def as_traced() -> AbstractContextManager[Any]:
    """Inside, graphs of `trace` run operation by operation as they were recorded: torch's own way with them
    first spends more than texts take on changing them."""
    return torch.jit.optimized_execution(False)


def lerp_all_(averages: Sequence[Tensor], values: Sequence[Tensor], weight: float) -> None:
    """Move every average by a share `weight` towards its value, in place and in one call."""
    torch._foreach_lerp_(list(averages), list(values), weight)


def has_bf16_instructions() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX-512 BF16)."""
    return torch.cpu._is_avx512_bf16_supported()


@lru_cache(maxsize=8)
def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bf16; CUDA from compute capability 8.0 on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and has_bf16_instructions()


def attention_implementation(config: Any) -> str | None:
    """The name of the attention function that a transformers layer with this configuration calls."""
    return getattr(config, "_attn_implementation", None)


def with_attention(config: Any, name: str) -> Any:
    """A copy of a transformers configuration, whose layers call the attention function `name`."""
    own = copy.copy(config)
    own._attn_implementation = name
    return own


@contextmanager
def hooks_as_before(modules: Sequence[nn.Module]) -> Iterator[None]:
    """In the end modules have no more forward hooks than at first: a library that fails leaves its own."""
    before = [set(module._forward_hooks) for module in modules]
    try:
        yield
    finally:
        for module, known in zip(modules, before, strict=True):
            for key in set(module._forward_hooks) - known:
                del module._forward_hooks[key]
