"""Muon: hidden matrices take steps along the orthogonal factor of their momentum, all else AdamW's.

K. Jordan et al., 2024 (kellerjordan.github.io/posts/muon); steps as large as AdamW's, so that one learning
rate serves both, by arXiv 2502.16982. `torch.optim.Muon` does the same to one matrix after the other, in
bfloat16 on whatever device, which few CPUs multiply fast. Here matrices of one shape go together, and a CPU
computes in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Of the Newton-Schulz iteration: an odd polynomial, steep at 0, that brings singular values near 1."""
RMS = 0.2
"""Root mean square of an update of AdamW's, in units of the learning rate."""
TOGETHER = 1 << 22
"""Values that are orthogonalized at once, unless one matrix has more."""
BUFFER, HIDDEN = "momentum_buffer", "hidden"


class Muon(torch.optim.AdamW):
    """Groups with `hidden: True` hold matrices [rows, cols] and take Muon's steps, the others AdamW's.

    `weight_decay` is decoupled in both, and the first of `betas` the memory of gradients of both. A matrix
    holds one moment, not two.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float],
                 ranks: int = 1):
        """`ranks`: of the process group, all of which take the same steps."""
        super().__init__(groups, lr=lr, betas=betas, fused=True)
        self._ranks = ranks

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step on the gradients that there are."""
        every = self.param_groups
        self.param_groups = [group for group in every if not group[HIDDEN]]
        try:
            loss: float | None = super().step(closure)
        finally:
            self.param_groups = every
        for group in every:
            if group[HIDDEN]:
                self._step(group)
        return loss

    def _step(self, group: Mapping[str, Any]) -> None:
        for alike in _together(value for value in group["params"] if value.grad is not None):
            slopes = torch.stack([_lying(self._slope(value, group["betas"][0])) for value in alike])
            rate = group["lr"] * RMS * math.sqrt(max(alike[0].shape))
            updates = orthogonalized(slopes)
            if self._ranks > 1:  # other devices may differ in last bits, and what ranks hold is not compared
                dist.broadcast(updates, src=0)
            for value, update in zip(alike, updates, strict=True):
                if group["weight_decay"]:
                    value.mul_(1 - group["lr"] * group["weight_decay"])
                value.add_(update if value.shape[0] <= value.shape[1] else update.T, alpha=-rate)

    def _slope(self, value: Tensor, memory: float) -> Tensor:
        """Nesterov's momentum, one gradient further."""
        state, gradient = self.state[value], value.grad
        assert gradient is not None
        if BUFFER not in state:
            state.update({BUFFER: torch.zeros_like(value), "step": torch.tensor(0.0)})  # as AdamW's have
        state["step"] += 1
        buffer: Tensor = state[BUFFER].lerp_(gradient, 1 - memory)
        return gradient.lerp(buffer, memory)

    def misfit(self, saved: Mapping[int, Mapping[str, Any]]) -> str | None:
        """Why saved moments, by the parameters' numbers, are not of this optimizer; None where they are."""
        kinds = [(value, (BUFFER,) if group[HIDDEN] else ("exp_avg", "exp_avg_sq"))
                 for group in self.param_groups for value in group["params"]]
        for number, entry in saved.items():
            value, names = kinds[number]
            if any(entry[name].shape != value.shape for name in names):
                return "moments of another kind"
        return None


def orthogonalized(matrices: Tensor) -> Tensor:
    """[n, rows, cols], rows <= cols -> the same with all singular values near 1: U V' of each U S V'."""
    a, b, c = COEFFICIENTS
    x = matrices if matrices.device.type == "cpu" else matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


def _lying(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _together(values: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices of one shape, lying or standing, as many as are computed at once."""
    by_shape: dict[tuple[int, ...], list[Tensor]] = {}
    for value in values:
        by_shape.setdefault(tuple(sorted(value.shape)), []).append(value)
    for (rows, cols), alike in by_shape.items():
        count = max(1, TOGETHER // (rows * cols))
        for start in range(0, len(alike), count):
            yield alike[start:start + count]
