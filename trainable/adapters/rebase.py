"""An adapter turned into its singular basis: the same product, of which every prefix is the best adapter of
that rank.

A prefix trained for itself is in whatever directions its first steps took. With B A = U S V^T, the factors
B' = U sqrt(S) and A' = sqrt(S) V^T have the same product, and the first r columns and rows of them have the
best product of rank r in the Frobenius norm (Eckart-Young). Both come of one matrix M of r x r, A' = M A and
B' = B M^-1, so that what an optimizer knows of the old coordinates is carried over.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NULL = 1e-6
"""Singular values below so much of the largest are none: of the product, not of what could be learned."""


class Basis(NamedTuple):
    """How to leave one pair of factors for another of the same product. All in float64."""

    into: Tensor
    """[r, r] M."""
    back: Tensor
    """[r, r] M^-1."""

    def down(self, a: Tensor) -> Tensor:
        """[r, in] M A: what the columns of A are in the new coordinates; of an average of As, too."""
        return (self.into @ a.double()).to(a.dtype)

    def up(self, b: Tensor) -> Tensor:
        """[out, r] B M^-1."""
        return (b.double() @ self.back).to(b.dtype)

    def down_slope(self, slope: Tensor, power: int = 1) -> Tensor:
        """[r, in] the gradient by A, in the new coordinates: M^-T G. `power` 2: its mean square,
        entries taken for uncorrelated."""
        return (self.back.mT.pow(power) @ slope.double()).to(slope.dtype)

    def up_slope(self, slope: Tensor, power: int = 1) -> Tensor:
        """[out, r] the gradient by B, in the new coordinates: G M^T."""
        return (slope.double() @ self.into.mT.pow(power)).to(slope.dtype)


def singular_basis(a: Tensor, b: Tensor) -> Basis | None:
    """The way into the singular basis of b a, of a [r, in] and b [out, r]; r at most the smaller dimension.
    None where the product is zero or the rows of a depend on each other: there is nothing to turn then.

    Directions that the product does not have keep a row of A, as long as the others' are in the mean, and a
    zero column of B, as LoRA has it at first: with both at zero they could never be learned.
    """
    (qa, ra), (_, rb) = (torch.linalg.qr(factor.double()) for factor in (a.mT, b))
    if float(ra.diagonal().abs().min()) <= NULL * float(ra.diagonal().abs().max()):
        return None
    _, s, vt = torch.linalg.svd(rb @ ra.mT)
    if not float(s[0]) > 0.0:
        return None
    vt = vt * _signs(vt @ qa.mT)[:, None]
    length = torch.where(s > NULL * s[0], s.sqrt(), a.double().norm(dim=1).mean())
    into = length[:, None] * torch.linalg.solve_triangular(ra.mT, vt, upper=False, left=False)
    return Basis(into, ra.mT @ vt.mT / length)


def _signs(rows: Tensor) -> Tensor:
    """[r] +-1: what makes the largest entry of each row positive, since a singular vector's sign is open."""
    at = rows.abs().argmax(dim=1, keepdim=True)
    return torch.where(rows.gather(1, at)[:, 0] < 0, -1.0, 1.0)
