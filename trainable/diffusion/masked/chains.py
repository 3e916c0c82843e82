"""Rows drawn jointly where each position is joined to the next: Markov chains over a few candidates each.

p(x) ~ prod_j exp(own_j(x_j)) prod_j exp(pair_j(x_j, x_j+1)), drawn exactly: messages go from right to left,
draws from left to right (forward filtering, backward sampling, the other way around).
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.models.prediction import probabilities

STEEPEST = 80.0
"""Nats: the most that a pair may weigh for messages in float32."""


class Chains:
    """B rows of m positions with k candidates each, from logs that need not be normalized."""

    def __init__(self, own: Tensor, pair: Tensor):
        """`own` [B, m, k]; -inf: no candidate, but not all of a position. `pair` [B, m - 1, k, k], between
        -STEEPEST and STEEPEST."""
        self._own = probabilities(own - own.amax(2, keepdim=True)).masked_fill(own == -torch.inf, 0.0)
        self._pair = pair.exp()
        found = [torch.ones_like(self._own[:, 0])]
        for j in range(own.shape[1] - 1, 0, -1):
            found.append((self._pair[:, j - 1] @ _scaled(self._own[:, j] * found[-1])[..., None])[..., 0])
        self._behind = torch.stack(found[::-1], 1)
        """[B, m, k] weight that all positions to the right give a candidate."""

    def draw(self, u: Tensor) -> Tensor:
        """[B, m] candidates by uniform numbers [B, m]."""
        weights, each = self._own.double() * self._behind, torch.arange(len(u), device=u.device)
        drawn: list[Tensor] = []
        for j in range(u.shape[1]):
            here = weights[:, j] * self._pair[each, j - 1, drawn[-1]] if j else weights[:, j]
            total = here.cumsum(1)
            # Strictly above u: what has no chance is never met.
            drawn.append((total <= u[:, j, None] * total[:, -1:]).sum(1).clamp(max=here.shape[1] - 1))
        return torch.stack(drawn, 1)

    def marginals(self) -> Tensor:
        """[B, m, k] probability of each candidate, whatever stands at other positions."""
        found = [torch.ones_like(self._own[:, 0])]
        for j in range(self._own.shape[1] - 1):
            found.append((_scaled(self._own[:, j] * found[-1])[:, None] @ self._pair[:, j])[:, 0])
        weights = self._own.double() * self._behind * torch.stack(found, 1)
        return weights / weights.sum(2, keepdim=True)


def _scaled(weights: Tensor) -> Tensor:
    """[B, k] whose largest is 1."""
    return weights / weights.amax(1, keepdim=True)
