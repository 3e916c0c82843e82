"""Gradient checkpointing: what a block computes on the way is computed again for its gradient, not kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainable.models.backbone import Backbone
from trainable.models.parts import block_name, plain_name


def checkpoint_blocks(model: Backbone) -> list[str]:
    """Let every numbered block of `model.body` keep its input alone while gradients are wanted, in place;
    returns their names. Outputs and gradients stay what they are; a step takes about a third longer."""
    sites = model.sites()
    names = [block_name(plain_name(name)) for site in ("attention", "ffn") for name in sites.get(site, ())]
    blocks = [name for name in dict.fromkeys(names) if name.rpartition(".")[2].isdigit()]
    for name in blocks:
        block = model.get_submodule(name)
        block.forward = partial(_forward, block, block.forward)
    return blocks


def _forward(block: nn.Module, forward: Any, *args: Any, **named: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **named)
    return checkpoint(forward, *args, use_reentrant=False, **named)
