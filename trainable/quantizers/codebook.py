"""Vector quantization of a weight's rows: nearest codeword search, k-means, and the gradient that
codewords get."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainable.quantizers.gradients import straight_through

ROUNDS = 10
CHUNK = 1 << 24
"""Distances held at once: bounds memory."""


def sub_vectors(w: Tensor, width: int) -> Tensor:
    """[rows, cols] -> [parts, rows, width]: each row cut into pieces of `width`, the last
    padded with zeros."""
    width = width or w.shape[1]
    padded = torch.nn.functional.pad(w, (0, -w.shape[1] % width))
    return padded.reshape(w.shape[0], -1, width).transpose(0, 1).contiguous()


def rows_of(vectors: Tensor, shape: tuple[int, int]) -> Tensor:
    """The reverse of `sub_vectors`."""
    return vectors.transpose(0, 1).reshape(shape[0], -1)[:, : shape[1]]


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """[parts, n, width] and [parts, entries, width] -> index of the nearest codeword (L2) for each,
    int64 [parts, n]."""
    unit = vectors.abs().amax().clamp(min=2.0**-100)  # squares of huge values must not overflow
    vectors, codebook = vectors / unit, (codebook / unit).clamp(-1e6, 1e6)
    offset, words = codebook.square().sum(-1)[:, None], codebook.transpose(1, 2)
    step = max(1, CHUNK // (codebook.shape[0] * codebook.shape[1]))
    found = [torch.baddbmm(offset, part, words, alpha=-2).argmin(-1) for part in vectors.split(step, 1)]
    return torch.cat(found, 1)


@torch.no_grad()
def k_means(vectors: Tensor, entries: int, seed: int = 0) -> Tensor:
    """[parts, n, width] -> [parts, entries, width] codewords, by Lloyd's rounds from a random
    choice of the vectors.

    An entry that no vector is nearest to takes the place of a vector drawn at random.
    """
    parts, n, width = vectors.shape
    generator = torch.Generator().manual_seed(seed)
    unit = vectors.abs().amax().clamp(min=2.0**-100)
    points = vectors / unit
    codebook = points[:, _draw(n, entries, generator)].contiguous()
    for _ in range(ROUNDS):
        codes = nearest(points, codebook)
        total = torch.zeros_like(codebook).scatter_add_(1, codes[..., None].expand(-1, -1, width), points)
        found = torch.zeros(parts, entries, device=vectors.device).scatter_add_(1, codes,
                                                                                points.new_ones(parts, n))
        spare = points[:, _draw(n, entries, generator)]
        codebook = torch.where(found[..., None] > 0, total / found[..., None].clamp(min=1), spare)
    return codebook * unit


def _draw(n: int, entries: int, generator: torch.Generator) -> Tensor:
    """`entries` numbers below n, distinct as far as n reaches."""
    order = torch.randperm(n, generator=generator)
    return order.repeat(-(-entries // n))[:entries]


def look_up(codebook: Tensor, codes: Tensor) -> Tensor:
    """[parts, entries, width], [parts, n] -> [parts, n, width]; gradients reach the codewords."""
    parts, entries, width = codebook.shape
    flat = codes + entries * torch.arange(parts, device=codes.device)[:, None]
    return torch.nn.functional.embedding(flat, codebook.reshape(-1, width))


class _Commitment(torch.autograd.Function):
    """The quantized values; adds to the gradients those of mean |q - sg w|^2 and of beta
    mean |sg q - w|^2."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, quantized: Tensor, beta: float) -> Tensor:
        ctx.beta = beta
        ctx.save_for_backward(w, quantized)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        w, quantized = ctx.saved_tensors
        apart = (2 / w.numel()) * (quantized - w)
        return grad - (ctx.beta * apart).to(grad.dtype), grad + apart.to(grad.dtype), None


def committed(w: Tensor, quantized: Tensor, beta: float) -> Tensor:
    """`quantized`, straight-through, with VQ-VAE's codebook and commitment losses (arXiv
    1711.00937, equation 3).

    The losses enter as their gradients, at weight 1 beside the training loss, which need not know of them.
    Weight and codewords both get the gradient of the loss. With `beta` 0 neither loss is added.
    """
    if not beta:
        return straight_through(w, quantized)
    return _Commitment.apply(w, quantized.to(w.dtype), beta)
