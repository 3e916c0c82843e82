"""Folding of norms and rotations into the weights around them, which changes nothing in exact arithmetic
(QuaRot).

A pre-norm model is prepared for a rotation of its residual stream in this order: every norm's scale and shift
go into the Linears that read it (`fold_norm`); whatever writes to the stream (embedding table, positions,
attention output, second feed-forward layer) loses its mean over channels (`remove_output_mean`), after which
LayerNorm without affine part *is* RMSNorm; then writers rotate their outputs (`rotate_outputs`) and readers
their inputs (`Rotation.weight`). RMSNorm commutes with a rotation, LayerNorm does not: to forget the mean
passes every shape check and destroys the model. A model with norms after the sum (BERT) cannot be treated so,
nor can a table that is tied to a head behind a norm with a scale: untie it first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.quantization.post_training.rotation import Rotation


def fold_norm(weight: Tensor, bias: Tensor | None, scale: Tensor,
              shift: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Linear [out, in], [out] that reads a norm with scale and shift [in] -> the one that reads it without
    them."""
    folded = (weight.double() * scale.double()).float()
    if shift is None:
        return folded, bias
    moved = weight.double() @ shift.double()
    return folded, (moved if bias is None else bias.double() + moved).float()


def remove_output_mean(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Linear [d, in], [d] that writes to a residual stream of d channels -> (I - 11^T / d) times it."""
    centered = (weight.double() - weight.double().mean(0, keepdim=True)).float()
    return centered, None if bias is None else (bias.double() - bias.double().mean()).float()


def remove_row_mean(table: Tensor) -> Tensor:
    """Embedding table [rows, d] -> the same without the mean of each row."""
    return (table.double() - table.double().mean(1, keepdim=True)).float()


def rotate_outputs(weight: Tensor, bias: Tensor | None, rotation: Rotation) -> tuple[Tensor, Tensor | None]:
    """Linear [d, in], [d] -> the one whose outputs are those of it, rotated. A table's rows:
    `rotation.inputs(table)`."""
    turned = rotation.inputs(weight.double().T).T.float()
    return turned, None if bias is None else rotation.inputs(bias.double()).float()


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean x^2 + eps) over the last axis: LayerNorm without affine part, of channels whose mean is
    zero."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
