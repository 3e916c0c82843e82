"""Hadamard matrices: orthogonal, with entries of one size, so that an outlier is spread evenly over all
channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST_FACTOR = 64
"""Sylvester factors of a Kronecker product: a product with two of 64 costs 32 times less than with one of
4096."""
LARGEST_PALEY = 512


def hadamard_factors(width: int) -> list[Tensor] | None:
    """Orthonormal float64 matrices whose Kronecker product is a Hadamard matrix of this width, or None.

    Width 1, 2 or 2^k m, with m the order of a Paley matrix. Orders such as 172 that need other constructions
    are left out.
    """
    if width < 1:
        raise ValueError(f"a rotation of width {width}")
    twos = (width & -width).bit_length() - 1
    odd = width >> twos
    if odd == 1:
        return _sylvester(twos)
    for taken in range(2, twos + 1):
        matrix = _paley(odd << taken)
        if matrix is not None:
            return [matrix, *_sylvester(twos - taken)]
    return None


def largest_block(width: int) -> int:
    """The largest divisor of `width` that has a Hadamard matrix."""
    divisors = (size for size in range(1, width + 1) if width % size == 0)
    return max(size for size in divisors if hadamard_factors(size) is not None)


def kronecker(x: Tensor, factors: Sequence[Tensor | int], transpose: bool = False) -> Tensor:
    """Rows x [..., n] times the Kronecker product of `factors`, n the product of their sizes; an int is an
    identity."""
    sizes = [factor if isinstance(factor, int) else len(factor) for factor in factors]
    if math.prod(sizes) != x.shape[-1]:
        raise ValueError(f"factors of sizes {sizes} do not act on inputs of width {x.shape[-1]}")
    out = x.reshape(-1, x.shape[-1])
    before = 1
    for factor, size in zip(factors, sizes, strict=True):
        if not isinstance(factor, int):
            matrix = factor.to(out.device, out.dtype)
            matrix = matrix.T if transpose else matrix
            parts = out.reshape(len(out) * before, size, -1)
            out = (matrix.T @ parts).reshape(len(out), -1)
        before *= size
    return out.reshape(x.shape)


def _sylvester(twos: int) -> list[Tensor]:
    largest = LARGEST_FACTOR.bit_length() - 1
    powers = [largest] * (twos // largest) + ([twos % largest] if twos % largest else [])
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.double)
    return [math.sqrt(0.5) ** power * _power(pair, power) for power in powers]


def _power(matrix: Tensor, power: int) -> Tensor:
    out = torch.ones(1, 1, dtype=torch.double)
    for _ in range(power):
        out = torch.kron(out, matrix)
    return out


def _paley(order: int) -> Tensor | None:
    """Paley's first construction for order q + 1, q = 3 mod 4, or second for 2 (q + 1), q = 1 mod 4; q prime
    (1933)."""
    if order > LARGEST_PALEY or order % 4:
        return None
    if _prime(order - 1) and order % 4 == 0:
        jacobsthal = _jacobsthal(order - 1)
        skew = torch.zeros(order, order, dtype=torch.double)
        skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, jacobsthal
        return (skew + torch.eye(order)) / math.sqrt(order)
    prime = order // 2 - 1
    if prime % 4 == 1 and _prime(prime):
        conference = torch.zeros(prime + 1, prime + 1, dtype=torch.double)
        conference[0, 1:], conference[1:, 0], conference[1:, 1:] = 1, 1, _jacobsthal(prime)
        plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.double)
        minus = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.double)
        eye = torch.eye(prime + 1, dtype=torch.double)
        return (torch.kron(conference, plus) + torch.kron(eye, minus)) / math.sqrt(order)
    return None


def _jacobsthal(prime: int) -> Tensor:
    """Q[a, b] = 1 where a - b is a nonzero square modulo the prime, -1 where it is none, 0 on the
    diagonal."""
    squares = torch.full((prime,), -1.0, dtype=torch.double)
    numbers = torch.arange(1, prime)
    squares[numbers**2 % prime] = 1
    squares[0] = 0
    index = torch.arange(prime)
    return squares[(index[:, None] - index) % prime]


def _prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
