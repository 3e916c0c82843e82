"""AdamW whose moments are held in 8 bits (arXiv 2110.02861): codes, and a scale for each block of 256.

The levels are those of dynamic trees, as in bitsandbytes. One thing is done otherwise: a second moment that
is not 0 is never rounded to 0. A block may hold rows of a table that are seen often and others that are seen
rarely, of which the second moment would be lost first, and the step, divided by it, would have no bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from trainable.quantizers import dynamic_tree

BLOCK, PIECE = 256, 1 << 20
"""Values that share a scale, and that are held as floats at once."""
FIRST, SECOND, SCALE = "exp_avg", "exp_avg_sq", "_scale"
"""Names in an optimizer's state, the first two as in torch."""


def in_codes(value: Tensor) -> bool:
    """Whether the moments of a parameter are codes: of matrices that fill a block. Vectors, which are few,
    keep float32."""
    return value.ndim > 1 and value.numel() >= BLOCK and value.is_contiguous()


class AdamW8bit(torch.optim.Optimizer):
    """As `torch.optim.AdamW` but for what it holds: 2.03 bytes a value of a matrix instead of 8. `groups`:
    with `params` and a `weight_decay` of their own."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float],
                 eps: float = 1e-8):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step on the gradients that there are."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    self._update(value, value.grad, group)
        return loss

    def _update(self, value: Tensor, slope: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[value]
        if not state:
            state.update(_zeros(value), step=0)
        state["step"] += 1
        (decay, memory), count = group["betas"], state["step"]
        rate, bias = group["lr"] / (1 - decay**count), math.sqrt(1 - memory**count)
        for piece, gradient, first, second in _pieces(value, slope, state):
            first.lerp_(gradient, 1 - decay)
            second.mul_(memory).addcmul_(gradient, gradient, value=1 - memory)
            piece.mul_(1 - group["lr"] * group["weight_decay"])
            piece.addcdiv_(first, (second.sqrt() / bias).add_(group["eps"]), value=-rate)

    def change(self, value: Tensor, change: Callable[[Tensor, int], Tensor]) -> None:
        """Put both moments of a parameter through `change`, as floats (see `optimizer.change_moments`)."""
        state = self.state[value]
        for power, name in enumerate((FIRST, SECOND), 1):
            if name + SCALE not in state:
                state[name].copy_(change(state[name], power))
                continue
            floats = _decoded(state[name].view(-1), state[name + SCALE], power == 1).view_as(value)
            _encode(change(floats, power).reshape(-1), state[name].view(-1), state[name + SCALE], power == 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As saved. torch takes all of a state for floats; codes are whole numbers again."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in (FIRST, SECOND):
                if name + SCALE in state:
                    state[name] = state[name].to(torch.uint8)

    def misfit(self, saved: Mapping[int, Mapping[str, Any]]) -> str | None:
        """Why saved moments, by the parameters' numbers, are not of this optimizer; None where they are."""
        values = [value for group in self.param_groups for value in group["params"]]
        for number, entry in saved.items():
            own = _zeros(values[number], "meta")
            if entry.keys() != {*own, "step"} or any(
                    (entry[name].dtype, entry[name].shape) != (part.dtype, part.shape)
                    for name, part in own.items()):
                return "moments of another kind"
        return None


def _zeros(value: Tensor, device: str | torch.device | None = None) -> dict[str, Tensor]:
    """The moments of a parameter before the first step."""
    device = device or value.device
    if not in_codes(value):
        return {name: torch.zeros_like(value, device=device) for name in (FIRST, SECOND)}
    blocks = -(-value.numel() // BLOCK)
    return {name: part for moment in (FIRST, SECOND) for name, part in (
        (moment, torch.zeros(value.shape, dtype=torch.uint8, device=device)),
        (moment + SCALE, torch.zeros(blocks, device=device)))}


def _pieces(value: Tensor, gradient: Tensor,
            state: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Parts of a parameter, its gradient and both moments as floats; what is done to them in place stays."""
    if FIRST + SCALE not in state:
        yield value, gradient, state[FIRST], state[SECOND]
        return
    flat, slope = value.view(-1), gradient.reshape(-1)
    for start in range(0, flat.numel(), PIECE):
        part = slice(start, start + PIECE)
        blocks = slice(start // BLOCK, (start + PIECE) // BLOCK)
        held = [(state[name].view(-1)[part], state[name + SCALE][blocks], signed)
                for name, signed in ((FIRST, True), (SECOND, False))]
        floats = [_decoded(*each) for each in held]
        yield flat[part], slope[part], floats[0], floats[1]
        for (codes, scales, signed), moment in zip(held, floats, strict=True):
            _encode(moment, codes, scales, signed)


def _decoded(codes: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """[n] codes and [n / BLOCK] scales -> [n] floats."""
    levels = dynamic_tree.levels(codes.device, signed)
    found = levels.index_select(0, codes.int())
    return found.mul_(scales.repeat_interleave(BLOCK)[:len(found)])


def _encode(moment: Tensor, codes: Tensor, scales: Tensor, signed: bool) -> None:
    """[n] floats into codes and scales, in place."""
    blocks = pad(moment, (0, -len(moment) % BLOCK)).view(-1, BLOCK)
    scales.copy_(blocks.abs().amax(1))
    found = dynamic_tree.nearest(blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None], signed)
    if not signed:
        found.masked_fill_((found == 0) & (blocks > 0), 1)
    codes.copy_(found.view(-1)[:len(moment)])
