"""The triangular factor of the inverse Hessian that GPTQ and its kin compensate errors with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spaces.errors import UserError

RETRIES = 6
"""Times that the damping is raised tenfold before a Hessian is given up."""
FIRST_RETRY = 1e-4
"""Damping of the first retry where none was asked for."""


class InverseFactor(NamedTuple):
    """U, upper triangular float64 [in, in] with U^T U = (H + damping mean(diag H) I)^-1, and how it was
    reached."""

    upper: Tensor
    damping: float
    retries: int
    dead: int
    """Inputs that were zero in every calibration token; nothing is passed on to or from them."""

    @property
    def report(self) -> dict[str, float]:
        """What a method reports of it."""
        return {"damping": self.damping, "damping_retries": float(self.retries),
                "dead_inputs": float(self.dead)}


def inverse_factor(second_moment: Tensor, damping: float, name: str = "layer") -> InverseFactor:
    """H [in, in] positive semidefinite -> its `InverseFactor`.

    H = M M^T with M upper triangular is a Cholesky factorization read backwards, and U = M^-1: the inverse of
    H, which loses twice the digits, is never formed. A Hessian that is singular to working precision is
    damped ten times as much, up to `RETRIES` times. Raises `UserError` when that does not help.
    """
    hessian = second_moment.double().clone()  # memory is counted here: one Hessian can take gigabytes
    width, diagonal = len(hessian), hessian.diagonal()
    dead = diagonal <= 0
    mean = float(diagonal.mean()) or 1.0
    undamped, used = torch.where(dead, mean, diagonal), damping
    for retries in range(RETRIES + 1):
        diagonal.copy_(undamped + used * mean)
        lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))
        pivots = lower.diagonal().square()
        # A pivot that is rounding noise passes the factorization, and errors divided by it swamp the weights.
        if not failed and pivots.min() > width * torch.finfo(torch.double).eps * diagonal.max():
            identity = torch.eye(width, dtype=torch.double, device=hessian.device)
            upper = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
            return InverseFactor(upper, used, retries, int(dead.sum()))
        used = max(10 * used, FIRST_RETRY)
    raise UserError(f"Hessian of {name} stays singular at damping {used / 10:g} after {RETRIES} retries: "
                    f"calibrate on more tokens")
