"""What an adapter's start is: a weight W, the quantizer that it gets, and a rank give a master M and factors
L R so that Q(M) + L R is near W before anything trains.

A start is one file here and one line in `trainable.registry.ADAPTER_STARTS`; tests/trainable/adapters
then runs it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainable import registry
from trainable.quantizers.base import Quantizer

Need = Literal["moment", "fisher", "seen"]


@dataclass(frozen=True)
class Layer:
    """One Linear that carries an adapter."""

    name: str
    weight: Tensor
    """[out, in] float32, as in the full-precision base."""
    quantize: Callable[[Tensor], Tensor] | None
    """[out, in] master -> quantized values, the quantizer fitted anew; None where the layer
    has no quantizer."""
    rank: int
    moment: Tensor | None = None
    """[in, in] float64 mean of x x^T over calibration tokens, for a start with "moment" among its needs."""
    fisher: Tensor | None = None
    """[out, in] mean squared gradient of the training loss, for a start with "fisher" among its needs."""
    quantizer: Quantizer | None = None
    """Whose `quantize` it is."""
    seen: Tensor | None = None
    """[..] what `see` found, for a start with "seen" among its needs."""
    scaling: float = 1.0
    """What the adapter multiplies its two factors by, which are L and R over the root of it."""

    def quantized(self, master: Tensor) -> Tensor:
        """[out, in] the values that a master gives."""
        return master if self.quantize is None else self.quantize(master)


class Start(NamedTuple):
    """Where a layer begins."""

    master: Tensor
    """[out, in] what the quantizer is given."""
    up: Tensor
    """[out, rank] L."""
    down: Tensor
    """[rank, in] R. The layer computes (Q(master) + L R) x."""

    def residual(self, layer: Layer) -> Tensor:
        """[out, in] W - Q(master) - L R."""
        return layer.weight - layer.quantized(self.master) - self.up @ self.down


class AdapterStart(ABC):
    """How adapters start. A subclass has `name`, a one-sentence docstring and `Params`."""

    name: ClassVar[str]
    Params: ClassVar[type[registry.Params]] = registry.Params
    needs: ClassVar[tuple[Need, ...]] = ()
    """What has to be measured on calibration text before `start`."""
    corrects: ClassVar[bool] = True
    """Whether it acts on the error of a quantizer alone: a layer without one then starts as under `zero`."""

    def __init__(self, params: Any):
        self.params = params

    def quantizers(self, layers: Sequence[Layer]) -> dict[str, Quantizer]:
        """By layer's name, quantizers that replace the trial's before anything starts; most give none."""
        return {}

    def see(self, model: nn.Module, names: Sequence[str], batches: Sequence[Mapping[str, Tensor]],
            run: Callable[[Mapping[str, Tensor]], Any], rank: int) -> dict[str, Tensor]:
        """By layer's name, what a start wants to know of the full-precision `model`; asked for where "seen"
        is among its needs. `run` computes with a batch of calibration states, whose "state" is [B, L, ..]."""
        raise NotImplementedError

    @abstractmethod
    def start(self, layer: Layer) -> Start | None:
        """The layer's start; None = as peft starts one: L = 0, R random."""


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best rank-r approximation in the Frobenius norm (Eckart-Young): [m, n] -> [m, r], [r, n],
    the singular values shared evenly. Computed in float64."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype), (root[:, None] * v[:rank]).to(matrix.dtype)
