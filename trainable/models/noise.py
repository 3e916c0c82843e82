"""What a backbone is being shown: read by layers whose numbers depend on how noisy a row is."""

from __future__ import annotations

import torch
from torch import Tensor


class Noise:
    """Noise level and masked positions of the rows in the pass that runs; a backbone writes it, its layers
    read it."""

    def __init__(self) -> None:
        self.level = torch.zeros(1)
        """[B] in [0, 1]: the masked share of a row, or t / T."""
        self.masked = torch.zeros(1, 1, dtype=torch.bool)
        """[B, L]: positions whose word is not shown. Under Gaussian noise all of a row in the upper half of
        the levels, none of one in the lower."""

    def show(self, level: Tensor, masked: Tensor) -> None:
        """Say what the next layers are fed."""
        self.level, self.masked = level, masked
