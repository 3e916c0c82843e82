"""Random weights with calibration tokens that have what real activations have: correlations, a mean, outlier
channels."""

import torch
from torch import Tensor

from trainable.quantization.post_training.statistics import NEEDS, Statistics


def inputs(tokens: int, width: int, seed: int = 0, outliers: float = 8.0) -> Tensor:
    """Correlated tokens [tokens, width] of nonzero mean; one channel in 16 is `outliers` times as large."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5
    size = torch.where(torch.rand(width, generator=generator) < 1 / 16, outliers, 1.0)
    return (torch.randn(tokens, width, generator=generator) @ mixing + 0.2) * size


def counted(x: Tensor, weights: Tensor | None = None, needs=NEEDS) -> Statistics:
    """Statistics of tokens [N, width]."""
    statistics = Statistics(x.shape[-1], needs)
    statistics.add(x, weights)
    return statistics


def problem(out: int, width: int, seed: int = 0, tokens: int = 512) -> tuple[Tensor, Statistics, Tensor]:
    """A weight [out, width], statistics of its inputs, and the inputs."""
    x = inputs(tokens, width, seed)
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(seed + 1)) * 0.1
    return weight, counted(x), x


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    """Equal as bytes: tells -0 from 0."""
    assert a.dtype == b.dtype and a.shape == b.shape
    assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
