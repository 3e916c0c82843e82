"""Rotation of a layer's inputs by a Hadamard matrix (QuaRot, arXiv 2404.00456): no channel keeps an outlier
to itself.

The rotation of the inputs is computed online; one that can be folded into the layers before (norm_folding.py)
costs nothing. A width without a Hadamard matrix is rotated in equal blocks that have one, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from spaces.errors import UserError
from trainable.quantization.post_training.base import Transformed
from trainable.quantization.post_training.grid import GridMethod, GridParams
from trainable.quantization.post_training.hadamard import hadamard_factors, kronecker, largest_block
from trainable.quantization.post_training.maps import InputMap
from trainable.quantization.post_training.statistics import Statistics
from trainable.seeds import stream

LEAST_BLOCK = 4
"""Channels over which an outlier must at least be spread."""


class Rotation(InputMap):
    """Rows x [..., n] times the orthogonal R = diag(signs) K, K a Kronecker product of small orthogonal
    matrices."""

    keeps_channels = False  # and nothing to store: it is made again from a method's parameters and a width

    def __init__(self, factors: list[Tensor | int], signs: Tensor | None = None):
        self.factors, self.signs = factors, signs

    @classmethod
    def hadamard(cls, width: int, whole: bool = False, generator: torch.Generator | None = None) -> Rotation:
        """A Hadamard rotation of `width` channels, with random signs where a generator is given.

        Raises `UserError` where the width has no Hadamard matrix (`whole`) or none for blocks of
        `LEAST_BLOCK` channels.
        """
        factors = hadamard_factors(width)
        block = width if factors is not None else largest_block(width)
        if (whole and factors is None) or (width > 1 and block < min(LEAST_BLOCK, width)):
            remedy = f"blocks: true (blocks of {block})" if block >= LEAST_BLOCK else "widths divisible by 4"
            raise UserError(f"rotation of {width} channels: no Hadamard matrix of this order is known here; "
                            f"legal: {remedy}")
        signs = None
        if generator is not None:
            signs = 2.0 * torch.randint(2, (width,), generator=generator, device=generator.device) - 1
        parts: list[Tensor | int] = [width // block, *(hadamard_factors(block) or [])]
        return cls(parts, signs)

    @classmethod
    def heads(cls, heads: int, size: int) -> tuple[Rotation, Rotation]:
        """The two halves of the rotation of an attention output [heads x size]: within heads, then across
        heads.

        The first folds into value and output projections; the second must be computed online, before the
        output projection.
        """
        within, across = hadamard_factors(size), hadamard_factors(heads)
        if within is None or across is None:
            raise UserError(f"rotation of {heads} heads of {size} channels: "
                            f"no Hadamard matrix of these orders is known here")
        return cls([heads, *within]), cls([*across, size])

    def inputs(self, x: Tensor) -> Tensor:
        return kronecker(x if self.signs is None else x * self.signs.to(x.device, x.dtype), self.factors)

    def inverse(self, x: Tensor) -> Tensor:
        """The reverse of `inputs`."""
        out = kronecker(x, self.factors, transpose=True)
        return out if self.signs is None else out * self.signs.to(x.device, x.dtype)

    def weight(self, w: Tensor) -> Tensor:
        return self.inputs(w.double()).float()

    def undo(self, w: Tensor) -> Tensor:
        return self.inverse(w.double()).float()

    def moment(self, second: Tensor) -> Tensor:
        return self.inputs(self.inputs(second).T).T


class RotationParams(GridParams):
    blocks: bool = Field(
        True, description="rotate in blocks where the whole width has no Hadamard matrix; false: refuse")
    signs: Literal["none", "random"] = Field(
        "none", description="random: channels change sign by chance before the rotation")
    seed: int = Field(0, ge=0, description="of the random signs")


class HadamardRotation(GridMethod):
    """Inputs rotated by a Hadamard matrix, then rounding to nearest."""

    name = "rotation"
    Params = RotationParams
    params: RotationParams

    @classmethod
    def examples(cls) -> Sequence[BaseModel]:
        make = RotationParams
        return [make(), make(bits=3, group=8, signs="random"), make(symmetric=True, signs="random", seed=1)]

    def transform(self, weight: Tensor, statistics: Statistics | None = None) -> Transformed:
        rotation = self.rotation(weight.shape[1])
        return Transformed(rotation.weight(weight), (rotation,))

    def rotation(self, width: int) -> Rotation:
        """The rotation of inputs of this width: the same for every layer, so that its signs need not be
        stored."""
        generator = stream("rotation", self.params.seed, width) if self.params.signs == "random" else None
        return Rotation.hadamard(width, not self.params.blocks, generator)
