"""The one optimizer of everything that is trained here: bases, trials, teachers, control heads, baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from spaces.config import OptimConfig
from trainable.models.lora import LEARNED
from trainable.training.adamw8bit import AdamW8bit

Named = Iterable[tuple[str, Tensor]]
"""Parameters by their names in the model: `model.named_parameters()`."""


def decays(name: str, value: Tensor) -> bool:
    """Whether weight decay acts on a parameter: on matrices of the model alone.

    A bias, or the gain of a norm, is no slope to be kept small. What a quantizer learns about a weight
    (scales, tables, codebooks) has to follow that weight, and a pull towards 0 leads away from it.
    """
    return value.ndim > 1 and LEARNED not in name


def grouped(parameters: Named) -> tuple[list[str], list[str]]:
    """Names that decay, and names that do not, each in the order given."""
    names: tuple[list[str], list[str]] = ([], [])
    for name, value in parameters:
        names[not decays(name, value)].append(name)
    return names


def adamw(parameters: Named, *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
          weight_decay: float = 0.0, states: Literal["float32", "int8"] = "float32") -> torch.optim.Optimizer:
    """AdamW (decoupled weight decay, arXiv 1711.05101) in two groups: what decays, and what does not.
    `states`: how its moments are held."""
    values = dict(parameters)
    decaying, others = grouped(values.items())
    groups = [{"params": [values[name] for name in decaying], "weight_decay": weight_decay},
              {"params": [values[name] for name in others], "weight_decay": 0.0}]
    if states == "int8":
        return AdamW8bit(groups, lr=lr, betas=betas)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def configured(parameters: Named, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of one training run, as its settings ask for it."""
    return adamw(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay,
                 states=config.states)


def learning_rate(step: int, config: OptimConfig) -> float:
    """Linear warm-up, then linear decay to `final_lr` times the peak at the last step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    left = 1 - step / config.steps
    return config.lr * warm * (config.final_lr + (1 - config.final_lr) * max(0.0, left))


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use this learning rate from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def change_moments(optimizer: torch.optim.Optimizer, value: Tensor,
                   change: Callable[[Tensor, int], Tensor]) -> None:
    """Put a parameter's moments through `change`, which is given each as floats and its power of the
    gradient, 1 or 2. Nothing happens where no step has moved the parameter."""
    state = optimizer.state.get(value)
    if not state:
        return
    if isinstance(optimizer, AdamW8bit):
        optimizer.change(value, change)
        return
    for power, name in enumerate(("exp_avg", "exp_avg_sq"), 1):
        state[name].copy_(change(state[name], power))


def load_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor],
               saved: dict[str, Any]) -> None:
    """Continue from `optimizer.state_dict()`. `parameters`: what the optimizer was made from, in that order.

    A state of one group, as saved before there were two, holds parameters in the order of the model; it is
    put in the order of the groups. Raises `ValueError` for a state of other parameters.
    """
    if len(saved["param_groups"]) == 1:
        known = saved["param_groups"][0]["params"]
        before = {name: index for index, name in enumerate(parameters)}
        if len(known) != len(before):
            raise ValueError(f"a state of an optimizer of {len(known)} parameters, not {len(before)}")
        order = [before[name] for names in grouped(parameters.items()) for name in names]
        state = {new: saved["state"][old] for new, old in enumerate(order) if old in saved["state"]}
        saved = {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    optimizer.load_state_dict(saved)
