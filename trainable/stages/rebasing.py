"""Turning a supernet's adapters into their singular bases while they train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainable.adapters.rebase import Basis, singular_basis
from trainable.models.lora import ADAPTER
from trainable.training.loop import TrainingRun
from trainable.training.optimizer import change_moments


def turns(first: int, steps: int, times: int) -> frozenset[int]:
    """After which of `steps` steps adapters are turned: `times` of them, evenly spread from `first` to the
    last one; once: after the last."""
    return frozenset(steps - round((steps - first) * turn / max(1, times - 1)) for turn in range(times))


@torch.no_grad()
def rebase(layers: Iterable[Any], run: TrainingRun | None = None) -> None:
    """Turn peft's LoRA layers in place: each computes at its full rank what it did, up to rounding. Of a
    `run` that trains them, the averages of the factors and both of the optimizer's moments go into the same
    new coordinates; the second moment as if entries of a gradient had nothing to do with each other."""
    names = {} if run is None else {id(value): name for name, value in run.trained.items()}
    for layer in layers:
        a, b = (factor[ADAPTER].weight for factor in (layer.lora_A, layer.lora_B))
        basis = singular_basis(a, b)
        if run is not None and run.world_size > 1:
            basis = of_first_rank(basis, a)
        if basis is None:
            continue
        for value, turn, slope in ((a, basis.down, basis.down_slope), (b, basis.up, basis.up_slope)):
            value.copy_(turn(value))
            if run is None:
                continue
            if run.average:
                average = run.average[names[id(value)]]
                average.copy_(turn(average))
            change_moments(run.optimizer, value, slope)


def of_first_rank(basis: Basis | None, a: Tensor) -> Basis | None:
    """Rank 0's basis of a layer with this A, on all ranks: other devices may find another in the last bits,
    and what ranks hold is never compared again."""
    size = len(a)
    packed = torch.zeros((2, size, size), dtype=torch.float64, device=a.device)
    if basis is not None:
        packed.copy_(torch.stack(basis))
    dist.broadcast(packed, src=0)
    return Basis(packed[0], packed[1]) if packed.any() else None
