"""The denoiser's body as the BERT of transformers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertModel


@torch.no_grad()
def bert_of(encoder: Any, positions: Tensor, norm: nn.LayerNorm, words: Tensor) -> BertModel:
    """A `BertModel` of the encoder's layers, `positions` [P, hidden], the norm before them and `words`
    [V, hidden], what each word adds to its position. The pooler is zero: nothing here trains one."""
    config = copy.deepcopy(encoder.config)
    config.update({"vocab_size": len(words), "max_position_embeddings": len(positions), "type_vocab_size": 1,
                   "layer_norm_eps": norm.eps, "pad_token_id": None})
    with torch.random.fork_rng(devices=[]):
        made = BertModel(config).eval()
    state = {name: torch.zeros_like(value) for name, value in made.state_dict().items()
             if name.startswith(("pooler.", "embeddings.token_type_embeddings."))}
    state |= {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    state |= {f"embeddings.LayerNorm.{name}": value for name, value in norm.state_dict().items()}
    state["embeddings.position_embeddings.weight"] = positions
    state["embeddings.word_embeddings.weight"] = words
    made.load_state_dict(state, strict=False)
    return made
