"""Correction of the attention output that folds into the output projection (STaR-Quant's TAC, arXiv
2606.04945).

y' = A_b y + a for each block b of channels, y the quantized model's attention output: A_b and a are the ridge
regression of the full-precision output on it, shrunk towards the identity. The output projection takes them
in before it is rounded itself, W' = W A and b' = b + W a, so that the correction costs nothing when the model
runs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from spaces.errors import UserError
from trainable.quantization.post_training.corrections import Correction
from trainable.registry import Params

if TYPE_CHECKING:
    from trainable.quantization.post_training.block import Block


class TacParams(Params):
    block: int = Field(16, ge=1, le=4096, description="channels that are corrected together")
    ridge: float = Field(
        0.0, ge=0, description="pull towards no correction, in units of the mean variance; inf: bias alone")
    bias: bool = Field(True, description="correct the mean too")


class AffineCorrection(NamedTuple):
    """y' = A y + a: `matrix` float64 [blocks, block, block] and `bias` float64 [width]."""

    matrix: Tensor
    bias: Tensor

    def apply(self, y: Tensor) -> Tensor:
        """[..., width] -> corrected, same dtype."""
        parts = y.unflatten(-1, self.matrix.shape[:2])
        turned = torch.einsum("bij,...bj->...bi", self.matrix.to(y.dtype), parts)
        return turned.flatten(-2) + self.bias.to(y.dtype)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Output projection [out, width], [out] -> the float32 one that acts on y as this one does on y'."""
        blocks = weight.double().unflatten(-1, self.matrix.shape[:2])
        folded = torch.einsum("obi,bij->obj", blocks, self.matrix).flatten(-2)
        start = 0.0 if bias is None else bias.double()
        return folded.float(), (start + weight.double() @ self.bias).float()


class PairedMoments:
    """Sums, in float64, over tokens of quantized outputs q and full-precision outputs f, block by block."""

    def __init__(self, width: int, block: int, device: torch.device | str = "cpu"):
        if width % block:
            raise UserError(f"tac: blocks of {block} do not divide an attention output of {width} channels")
        self.shape = (width // block, block)
        self.count = 0
        self.q = torch.zeros(self.shape, dtype=torch.double, device=device)
        self.f, self.ff = torch.zeros_like(self.q), torch.zeros_like(self.q)
        self.qq = torch.zeros(*self.shape, block, dtype=torch.double, device=device)
        self.fq = torch.zeros_like(self.qq)

    @torch.no_grad()
    def add(self, quantized: Tensor, full: Tensor) -> None:
        """Outputs [..., width] of both models in the same states. Raises `UserError` on NaN or infinity."""
        if quantized.shape != full.shape or quantized.shape[-1] != math.prod(self.shape):
            raise ValueError(f"tac: outputs of shape {tuple(quantized.shape)} and {tuple(full.shape)}, "
                             f"{math.prod(self.shape)} channels expected")
        q, f = (y.detach().reshape(-1, *self.shape).double() for y in (quantized, full))
        if not (torch.isfinite(q).all() and torch.isfinite(f).all()):
            raise UserError("tac: attention outputs hold NaN or infinity")
        self.count += len(q)
        self.q += q.sum(0)
        self.f += f.sum(0)
        self.ff += f.square().sum(0)
        self.qq += torch.einsum("nbi,nbj->bij", q, q)
        self.fq += torch.einsum("nbi,nbj->bij", f, q)

    def merge(self, other: PairedMoments) -> None:
        """Add what another worker has counted."""
        if other.shape != self.shape:
            raise ValueError(f"tac: moments of {other.shape} and {self.shape} blocks")
        self.count += other.count
        for name in ("q", "f", "ff", "qq", "fq"):
            getattr(self, name).add_(getattr(other, name).to(self.q.device))

    def error(self, matrix: Tensor, bias: Tensor) -> Tensor:
        """Mean squared error of A q + a against f, float64 [blocks]: sums over the channels of a block."""
        n, a = self.count, bias.view(self.shape)
        moment, cross = self.qq / n, self.fq / n
        predicted = (matrix @ moment * matrix).sum((1, 2)) + a.square().sum(1)
        predicted += 2 * (a[:, None] @ matrix @ (self.q / n)[..., None]).flatten()
        wanted = (matrix * cross).sum((1, 2)) + (a * self.f / n).sum(1)
        return (self.ff / n).sum(1) - 2 * wanted + predicted


class TAC(Correction):
    """Block-diagonal affine correction of quantized attention outputs, folded into the output projection."""

    name = "tac"
    Params = TacParams
    attention = True
    late = True
    params: TacParams

    def finish(self, block: Block) -> None:
        """A pass over the states for the moments, and one for the statistics of the corrected projection.

        An output projection without a bias (Llama, ModernBERT) takes the matrices alone.
        """
        if block.parts is None:
            return
        name = block.parts.output
        linear = block.linear(name)
        moments = PairedMoments(linear.weight.shape[1], self.params.block, linear.weight.device)
        block.run({name: lambda y: moments.add(y, block.full[block.feed.number].to(y.device))})
        method = self if linear.bias is not None else TAC(self.params.model_copy(update={"bias": False}))
        correction = method.fit(moments)
        nothing = torch.eye(self.params.block, dtype=torch.double, device=moments.q.device)
        plain = moments.error(nothing.expand_as(correction.matrix), torch.zeros_like(correction.bias))
        found = moments.error(correction.matrix, correction.bias)
        for key, value in (("tac_error_before", plain), ("tac_error", found)):
            self.facts[key] = self.facts.get(key, 0.0) + float(value.sum())
        weight, bias = correction.fold(linear.weight, linear.bias)
        block.fold(name, weight, None if linear.bias is None else bias)

    def fit(self, moments: PairedMoments) -> AffineCorrection:
        """Moments -> correction. A block that it would not improve on the calibration tokens is left as it
        is."""
        if not moments.count:
            raise UserError("tac: no calibration token reached it")
        n, (blocks, size) = moments.count, moments.shape
        eye = torch.eye(size, dtype=torch.double, device=moments.q.device).expand(blocks, size, size)
        mean_q, mean_f = moments.q / n, moments.f / n
        second, cross = moments.qq / n, moments.fq / n
        if self.params.bias:
            second = second - mean_q[:, :, None] * mean_q[:, None]
            cross = cross - mean_f[:, :, None] * mean_q[:, None]
        if math.isinf(self.params.ridge):
            matrix = eye
        else:
            pull = self.params.ridge * second.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * eye
            matrix = (cross + pull) @ torch.linalg.pinv(second + pull, rtol=1e-12, hermitian=True)
        bias = mean_f - (matrix @ mean_q[..., None])[..., 0] if self.params.bias else torch.zeros_like(mean_q)
        better = moments.error(matrix, bias) <= moments.error(eye, torch.zeros_like(mean_q))
        return AffineCorrection(torch.where(better[:, None, None], matrix, eye),
                                torch.where(better[:, None], bias, 0.0).flatten())
