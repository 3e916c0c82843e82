"""How a gradient passes a quantizer: straight-through estimators, shared by all families.

| rule | gradient that the weight w gets for an incoming g, with q the quantized values |
|---|---|
| plain | g (Bengio et al., arXiv 1308.3432) |
| clipped | g where w lies within the format's range, or within its row's largest \\|q\\|; else zero |
| affine | g times the slope of the least-squares line from a row of w to its q, not below zero |
| rotation | g turned and scaled as the map that rotates a row of w onto its q (arXiv 2410.06424) |
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_TINY = 1e-30


class _StraightThrough(torch.autograd.Function):
    """Gives the quantized values and hands the gradient to the weight, as if nothing had
    happened in between."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, quantized: Tensor, low: float | None, high: float | None) -> Tensor:
        ctx.low, ctx.high = low, high
        if low is not None:
            ctx.save_for_backward(w)
        return quantized

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.low is None:
            return grad, None, None, None
        (w,) = ctx.saved_tensors
        return clip_gradient(grad, w, ctx.low, ctx.high), None, None, None


class _Corrected(torch.autograd.Function):
    """Gives the quantized values; the weight's gradient follows `rule`, the quantized values
    get it unchanged."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, quantized: Tensor, rule: str, low: float | None,
                high: float | None) -> Tensor:
        ctx.rule, ctx.low, ctx.high = rule, low, high
        ctx.save_for_backward(w, quantized)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        w, quantized = ctx.saved_tensors
        own = _RULES[ctx.rule](grad.float(), w.float(), quantized.float(), ctx.low, ctx.high).to(grad.dtype)
        return own, grad, None, None, None


class _Masked(torch.autograd.Function):
    """Gives the quantized values; the weight's gradient passes where the mask is set."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, quantized: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return grad * mask, grad, None


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.factor, None


def _plain(grad: Tensor, w: Tensor, q: Tensor, low: float | None, high: float | None) -> Tensor:
    return grad


def _clipped(grad: Tensor, w: Tensor, q: Tensor, low: float | None, high: float | None) -> Tensor:
    if low is not None and high is not None:
        return clip_gradient(grad, w, low, high)
    return grad * (w.abs() <= q.abs().amax(1, keepdim=True))


def _affine(grad: Tensor, w: Tensor, q: Tensor, low: float | None, high: float | None) -> Tensor:
    unit = w.abs().amax(1, keepdim=True).clamp(min=_TINY)  # keeps the squares of huge rows finite
    centered = w / unit
    centered = centered - centered.mean(1, keepdim=True)
    spread = centered.square().sum(1, keepdim=True)
    slope = (centered * (q / unit)).sum(1, keepdim=True) / spread.clamp(min=_TINY)
    # A constant row has no slope, and one that quantizes to a constant would never move again.
    return grad * torch.where((spread > 1e-12) & (slope > 0), slope, 1.0)


def _rotation(grad: Tensor, w: Tensor, q: Tensor, low: float | None, high: float | None) -> Tensor:
    w_norm, q_norm = _norm(w), _norm(q)
    e, target = w / w_norm, q / q_norm
    half = e + target
    square = half.square().sum(1, keepdim=True)
    turned = grad - 2 * half * (half * grad).sum(1, keepdim=True) / square.clamp(min=_TINY) \
        + 2 * e * (target * grad).sum(1, keepdim=True)
    # A zero row has no direction, and opposite rows have no one plane to turn in.
    fine = (w_norm > _TINY) & (q_norm > _TINY) & (square > 1e-6)
    return torch.where(fine, (q_norm / w_norm).clamp(max=1e4) * turned, grad)


def _norm(rows: Tensor) -> Tensor:
    unit = rows.abs().amax(1, keepdim=True).clamp(min=_TINY)
    return (unit * (rows / unit).square().sum(1, keepdim=True).sqrt()).clamp(min=_TINY, max=1e38)


_RULES = {"plain": _plain, "clipped": _clipped, "affine": _affine, "rotation": _rotation}


def pass_gradient(rule: str, w: Tensor, quantized: Tensor, low: float | None = None,
                  high: float | None = None) -> Tensor:
    """`quantized` [rows, cols], exactly; `w` gets its gradient by `rule`, what `quantized` was learned
    from by autograd."""
    return _Corrected.apply(w, quantized.to(w.dtype), rule, low, high)


def clip_gradient(grad: Tensor, w: Tensor, low: float, high: float) -> Tensor:
    """`grad` where low <= w <= high, zero elsewhere; low < 0 < high are float32 values."""
    # One fused pass. It leaves the bounds themselves out, hence the next float32 beyond each.
    below, above = low - _spacing(low), high + _spacing(high)
    return torch.ops.aten.hardtanh_backward(grad.float(), w.float(), below, above).to(grad.dtype)


def _spacing(value: float) -> float:
    """Distance from a float32 value to the next one away from zero."""
    return 2.0 ** (math.frexp(value)[1] - 24)


def straight_through(w: Tensor, quantized: Tensor, low: float | None = None, high: float | None = None,
                     mask: Tensor | None = None) -> Tensor:
    """`quantized`, exactly; the gradient goes to `w` unchanged, or only where low <= w <= high,
    or where `mask` is set.

    What `quantized` was computed from gets its gradient too, where autograd followed it. The usual
    `w + (quantized - w).detach()` is off by float rounding; this is not.
    """
    quantized = quantized.to(w.dtype)
    if mask is not None:
        return _Masked.apply(w, quantized, mask)
    if quantized.requires_grad:
        return _Corrected.apply(w, quantized, "plain" if low is None else "clipped", low, high)
    return _StraightThrough.apply(w, quantized, low, high)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` itself; its gradient is multiplied by `factor`."""
    return _ScaledGradient.apply(x, factor)
