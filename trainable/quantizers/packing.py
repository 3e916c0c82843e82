"""Codes to bytes and back, in whole-tensor operations, on whatever device the codes are.

Layouts are fixed, so that another program can read an artifact: `pack_bits` puts code k at bits [k b,
(k+1) b) of a little-endian bit stream; `pack_trits` puts five base-3 digits in a byte, the first least
significant (3^5 <= 256).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MAX_BITS = 24
TRITS_PER_BYTE = 5


def bits_bytes(values: int, bits: int) -> int:
    """Bytes of `values` codes of `bits` bits each."""
    return (values * bits + 7) // 8


def trits_bytes(values: int) -> int:
    """Bytes of `values` base-3 digits: 1.6 bits each."""
    return (values + TRITS_PER_BYTE - 1) // TRITS_PER_BYTE


def _overlaps(bits: int) -> Iterator[tuple[int, int, int]]:
    """For each of eight neighboring codes and each of their `bits` bytes: (code, byte, left shift
    onto that byte)."""
    for code in range(8):
        start = code * bits
        for byte in range(start // 8, (start + bits - 1) // 8 + 1):
            yield code, byte, start - 8 * byte


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Integer `codes` [n] in [0, 2^bits), bits in 1..24 -> uint8 [ceil(n bits / 8)]. Raises ValueError
    out of range."""
    _check_range(codes, 1 << _checked(bits))
    blocks = _padded(codes, 8)
    out = torch.zeros(blocks.shape[0], bits, dtype=torch.int32, device=codes.device)
    for code, byte, shift in _overlaps(bits):
        value = blocks[:, code]
        out[:, byte] |= (value << shift if shift >= 0 else value >> -shift) & 255
    return out.to(torch.uint8).flatten()[: bits_bytes(codes.numel(), bits)]


def unpack_bits(packed: Tensor, bits: int, values: int) -> Tensor:
    """uint8 [ceil(values bits / 8)] -> int32 codes [values]."""
    if bits in (1, 2, 4, 8):  # no code crosses a byte: one shift, on bytes, is several times as fast
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        return (packed[:, None] >> shifts).bitwise_and_((1 << bits) - 1).flatten()[:values].int()
    blocks = _padded(packed, _checked(bits))
    out = torch.zeros(blocks.shape[0], 8, dtype=torch.int32, device=packed.device)
    for code, byte, shift in _overlaps(bits):
        value = blocks[:, byte]
        out[:, code] |= value >> shift if shift >= 0 else value << -shift
    return out.bitwise_and_((1 << bits) - 1).flatten()[:values]


def pack_trits(trits: Tensor) -> Tensor:
    """Integer `trits` [n] in {0, 1, 2} -> uint8 [ceil(n / 5)]. Raises ValueError out of range."""
    _check_range(trits, 3)
    weights = 3 ** torch.arange(TRITS_PER_BYTE, dtype=torch.int32, device=trits.device)
    return (_padded(trits, TRITS_PER_BYTE) * weights).sum(1).to(torch.uint8)


def unpack_trits(packed: Tensor, values: int) -> Tensor:
    """uint8 [ceil(values / 5)] -> int32 trits [values]. Raises ValueError on a byte that five
    trits cannot make."""
    _check_range(packed, 3**TRITS_PER_BYTE)
    weights = 3 ** torch.arange(TRITS_PER_BYTE, dtype=torch.int32, device=packed.device)
    return (packed[:, None].int() // weights % 3).flatten()[:values]


def _padded(array: Tensor, width: int) -> Tensor:
    """[n] -> int32 [ceil(n / width), width], zeros behind."""
    flat = array.flatten().to(torch.int32)
    return torch.nn.functional.pad(flat, (0, -flat.numel() % width)).view(-1, width)


def _checked(bits: int) -> int:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits per code: 1 to {MAX_BITS} can be packed")
    return bits


def _check_range(codes: Tensor, limit: int) -> None:
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= limit):
        raise ValueError(f"codes must be in [0, {limit}), found {int(codes.min())} to {int(codes.max())}")
