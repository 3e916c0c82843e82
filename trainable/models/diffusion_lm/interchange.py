"""The denoiser's body as the BERT of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainable.models.diffusion_lm.encoder import Encoder

if TYPE_CHECKING:
    from transformers import BertModel


@torch.no_grad()
def bert_of(encoder: Encoder, positions: Tensor, norm: nn.LayerNorm, words: Tensor) -> BertModel:
    """A `BertModel` of the encoder's layers, `positions` [P, hidden], the norm before them and `words`
    [V, hidden], what each word adds to its position. The pooler is zero: nothing here trains one."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=encoder.hidden, num_hidden_layers=len(encoder.layer), num_attention_heads=encoder.heads,
        intermediate_size=encoder.ffn, hidden_dropout_prob=encoder.dropout,
        attention_probs_dropout_prob=encoder.dropout, attn_implementation="sdpa", vocab_size=len(words),
        max_position_embeddings=len(positions), type_vocab_size=1, layer_norm_eps=norm.eps, pad_token_id=None)
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
