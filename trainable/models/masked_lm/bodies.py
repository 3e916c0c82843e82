"""Transformer bodies for the masked LM, built from their configurations; attention sees both sides in all of them."""

from __future__ import annotations

import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, ModernBertConfig, ModernBertModel

from trainable.models.masked_lm.config import MaskedLMParams

ATTENTION = {
    "bert": {"query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
             "output": "attention.output.dense"},
    "modernbert": {"qkv": "attn.Wqkv", "output": "attn.Wo"},
    "llama": {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
              "output": "self_attn.o_proj"},
}
"""Role of each attention matrix -> its module within a layer. ModernBERT keeps query, key and value in one matrix."""
FFN = {
    "bert": ("intermediate.dense", "output.dense"),
    "modernbert": ("mlp.Wi", "mlp.Wo"),
    "llama": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
LAYERS = {"bert": "encoder.layer", "modernbert": "layers", "llama": "layers"}


def make_body(params: MaskedLMParams, tokens: int) -> nn.Module:
    """A transformers model with a table of `tokens` rows. transformers' own draw of weights is undone by `initialize`;
    it comes from torch's global generator, which is put back."""
    with torch.random.fork_rng(devices=[]):
        return _MAKERS[params.body](params, tokens)


def initialize(module: nn.Module, hidden: int, generator: torch.Generator) -> None:
    """BERT's rule, N(0, 0.02) at hidden 768, scaled to other widths as 1 / sqrt(hidden); biases 0, norms as they are.

    Unscaled, a narrow body starts almost linear and stays word salad for thousands of steps.
    """
    std = 0.02 * (768 / hidden) ** 0.5
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std, generator=generator)
            if getattr(part, "bias", None) is not None:
                nn.init.zeros_(part.bias)


def _bert(params: MaskedLMParams, tokens: int) -> nn.Module:
    return BertModel(BertConfig(
        vocab_size=tokens, hidden_size=params.hidden, num_hidden_layers=params.layers,
        num_attention_heads=params.heads, intermediate_size=params.ffn, max_position_embeddings=params.positions,
        hidden_dropout_prob=params.dropout, attention_probs_dropout_prob=params.dropout, type_vocab_size=1,
        pad_token_id=None, attn_implementation="sdpa"), add_pooling_layer=False)


def _modernbert(params: MaskedLMParams, tokens: int) -> nn.Module:
    # Every layer attends to the whole row: rows are short here, and a local window would hide the prompt.
    return ModernBertModel(ModernBertConfig(
        vocab_size=tokens, hidden_size=params.hidden, num_hidden_layers=params.layers,
        num_attention_heads=params.heads, intermediate_size=params.ffn, max_position_embeddings=params.positions,
        layer_types=["full_attention"] * params.layers, embedding_dropout=params.dropout,
        attention_dropout=params.dropout, mlp_dropout=params.dropout, pad_token_id=None, bos_token_id=None,
        eos_token_id=None, cls_token_id=None, sep_token_id=None, attn_implementation="sdpa"))


def _llama(params: MaskedLMParams, tokens: int) -> nn.Module:
    config = LlamaConfig(
        vocab_size=tokens, hidden_size=params.hidden, num_hidden_layers=params.layers,
        num_attention_heads=params.heads, num_key_value_heads=params.kv_heads or params.heads,
        intermediate_size=params.ffn, max_position_embeddings=params.positions, use_cache=False, pad_token_id=None,
        bos_token_id=None, eos_token_id=None, attn_implementation="sdpa")
    config.is_causal = False  # transformers then builds a bidirectional mask
    return LlamaModel(config)


_MAKERS = {"bert": _bert, "modernbert": _modernbert, "llama": _llama}
