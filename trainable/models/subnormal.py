"""Arithmetic without subnormal numbers, those below 1.2e-38 in float32: a CPU takes some hundred cycles for
each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def flushing() -> bool:
    """Whether subnormal results are 0 on this thread."""
    return not torch.full((1,), 1e-38).mul(0.1).any()


@contextmanager
def flushed() -> Iterator[None]:
    """Inside, subnormal numbers are 0 on this thread (x86 and Arm; elsewhere nothing differs).

    A sharp posterior over words holds many such numbers, and its softmax and its mean embedding then take
    several times as long. No sum in which another probability counts tells them from 0. `torch.exp` does not
    follow (`trainable.models.prediction.probabilities`).
    """
    before = flushing()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
