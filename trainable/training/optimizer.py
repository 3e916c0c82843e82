"""The optimizers of everything that is trained here: AdamW, and for bases and trials also Muon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spaces.config import OptimConfig, Site
from trainable.models.backbone import Backbone
from trainable.models.lora import LEARNED
from trainable.models.parts import plain_name
from trainable.quantization.sites import master_of, site_weights
from trainable.training.adamw8bit import AdamW8bit
from trainable.training.muon import HIDDEN, Muon

Named = Iterable[tuple[str, Tensor]]
"""Parameters by their names in the model: `model.named_parameters()`."""
HIDDEN_SITES: tuple[Site, ...] = ("projection", "attention", "ffn")


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


def muon(parameters: Named, hidden: Iterable[str], *, lr: float, betas: tuple[float, float],
         weight_decay: float = 0.0, ranks: int = 1) -> Muon:
    """Muon for the matrices named in `hidden`, AdamW for the rest: three groups, of which the last does not
    decay. Raises KeyError for a name that is none."""
    values = dict(parameters)
    first = list(hidden)
    decaying, others = grouped((name, value) for name, value in values.items() if name not in set(first))
    groups = [{"params": [values[name] for name in names], "weight_decay": decay, HIDDEN: names is first}
              for names, decay in ((first, weight_decay), (decaying, weight_decay), (others, 0.0))]
    return Muon(groups, lr=lr, betas=betas, ranks=ranks)


def hidden_matrices(model: nn.Module) -> list[str]:
    """Parameters that lead from layer to layer in the backbones that `model` is or holds: of projections,
    attention and feed-forward parts; neither tables of words and symbols and their heads, nor adapters."""
    masters = set[int]()
    for backbone in model.modules():
        if isinstance(backbone, Backbone):
            rows = {*backbone.token_parameters(), *backbone.symbol_parameters()}
            masters |= {id(master_of(module)) for site in HIDDEN_SITES
                        for name, module in site_weights(backbone, site)
                        if f"{plain_name(name)}.weight" not in rows}
    return [name for name, value in model.named_parameters() if id(value) in masters and value.ndim == 2]


def configured(parameters: Named, config: OptimConfig,
               model: nn.Module | None = None, ranks: int = 1) -> torch.optim.Optimizer:
    """The optimizer of one training run, as its settings ask for it. `model`: whose hidden matrices muon is
    for, as far as they are among `parameters`. `ranks`: that train it together."""
    if config.name == "muon":
        assert model is not None, "of_teacher refuses it"
        values = dict(parameters)
        hidden = [name for name in hidden_matrices(model) if name in values]
        return muon(values.items(), hidden, lr=config.lr, betas=config.betas,
                    weight_decay=config.weight_decay, ranks=ranks)
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
    """Put both of AdamW's moments of a parameter through `change`, which is given each as floats and its
    power of the gradient, 1 or 2. Nothing happens where no step has moved the parameter."""
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
    if len(saved["param_groups"]) == 1:  # AdamW's: Muon has always had three
        known = saved["param_groups"][0]["params"]
        before = {name: index for index, name in enumerate(parameters)}
        if len(known) != len(before):
            raise ValueError(f"a state of an optimizer of {len(known)} parameters, not {len(before)}")
        order = [before[name] for names in grouped(parameters.items()) for name in names]
        state = {new: saved["state"][old] for new, old in enumerate(order) if old in saved["state"]}
        saved = {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    optimizer.load_state_dict(saved)
