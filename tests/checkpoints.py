"""Tiny random checkpoints of each class that a masked LM can begin from, as Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers_made
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

ROWS = 400
"""Of every table; tokenizers have fewer tokens."""
_SMALL = dict(vocab_size=ROWS, hidden_size=16, num_hidden_layers=3,
              num_attention_heads=4, intermediate_size=24,
              pad_token_id=None, bos_token_id=None, eos_token_id=None, attn_implementation="sdpa")
_CAUSAL = dict(_SMALL, num_key_value_heads=2, max_position_embeddings=48)
SHAPES = {
    "bert": dict(body="bert", tied=True, transform=True, norm_eps=1e-12),
    "modernbert": dict(body="modernbert", tied=True, transform=True, norm_eps=1e-5, global_every=2,
                       local_window=4),
    "llama": dict(body="llama", kv_heads=2, tied=True, shift=True, norm_eps=1e-5, rope_theta=5e4),
    "qwen2": dict(body="llama", kv_heads=2, tied=False, shift=True, qkv_bias=True, rope_theta=1e6),
    "dream": dict(body="llama", kv_heads=2, tied=False, shift=True, qkv_bias=True, rope_theta=1e6),
    "llada": dict(body="llama", kv_heads=2, tied=False, norm_eps=1e-5, rope_theta=5e5),
}
"""Settings of model masked_lm for each, beside hidden, layers, heads, ffn and positions."""
KINDS = {"bert": "wordpiece"}
"""Tokenizer of each; bytes where not said."""
LLADA = {"d_model": 16, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2,
         "mlp_hidden_size": 24, "rope_theta": 5e5,
         "max_sequence_length": 48, "rms_norm_eps": 1e-5, "vocab_size": ROWS, "embedding_size": ROWS,
         "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "rope": True,
         "alibi": False, "include_bias": False, "include_qkv_bias": False, "weight_tying": False,
         "multi_query_attention": None, "model_type": "llada", "architectures": ["LLaDAModelLM"],
         "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"}}


def shape(name: str, **changes) -> dict:
    """`model:` of a space for a checkpoint."""
    return {"name": "masked_lm", "hidden": 16, "layers": 3, "heads": 4, "ffn": 24, "positions": 32,
            **SHAPES[name], **changes}


def make(name: str) -> PreTrainedModel:
    """The transformers model behind a checkpoint, with decided opinions and no zero biases."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if name == "bert":
            model = BertForMaskedLM(BertConfig(**_SMALL, max_position_embeddings=48, layer_norm_eps=1e-12))
        elif name == "modernbert":
            kinds = ["full_attention", "sliding_attention", "full_attention"]
            model = ModernBertForMaskedLM(ModernBertConfig(**_SMALL, cls_token_id=None, sep_token_id=None,
                                                           local_attention=4, layer_types=kinds))
        elif name == "llama" or name == "llada":
            theta, tied = (5e4, True) if name == "llama" else (5e5, False)
            model = LlamaForCausalLM(LlamaConfig(**_CAUSAL, rms_norm_eps=1e-5, tie_word_embeddings=tied,
                                                 rope_parameters={"rope_type": "default",
                                                                  "rope_theta": theta}))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**_CAUSAL, tie_word_embeddings=False, rms_norm_eps=1e-6,
                                                 rope_parameters={"rope_type": "default", "rope_theta": 1e6}))
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.3) if value.ndim > 1 else value.data.add_(
                0.2 * torch.randn(value.shape))
    return model.eval()


def write(name: str, folder: Path, dtype: torch.dtype = torch.float32,
          shards: bool = False) -> PreTrainedModel:
    """The folder of a checkpoint, tokenizer included; returns the model that it was made of."""
    model = make(name).to(dtype)
    model.save_pretrained(folder, max_shard_size="4KB" if shards else "1GB")
    tokenizers_made.write(folder, KINDS.get(name, "bytes"))
    if name == "llada":
        state = load_file(folder / "model.safetensors")
        save_file({_llada(key): value for key, value in state.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(LLADA))
    if name == "dream":
        config = json.loads((folder / "config.json").read_text())
        mask = json.loads((folder / "tokenizer.json").read_text())["added_tokens"][1]
        assert mask["content"] == "<|mask|>"
        config |= {"architectures": ["DreamModel"], "model_type": "Dream", "mask_token_id": mask["id"],
                   "auto_map": {"AutoModel": "modeling_dream.DreamModel"}}
        (folder / "config.json").write_text(json.dumps(config))
    return model


def _llada(name: str) -> str:
    """The name that the released model has for a Llama's tensor."""
    parts = {"self_attn.q_proj": "q_proj", "self_attn.k_proj": "k_proj", "self_attn.v_proj": "v_proj",
             "self_attn.o_proj": "attn_out", "mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj",
             "mlp.down_proj": "ff_out", "input_layernorm": "attn_norm", "post_attention_layernorm": "ff_norm",
             "model.embed_tokens": "model.transformer.wte", "model.norm": "model.transformer.ln_f",
             "lm_head": "model.transformer.ff_out", "model.layers": "model.transformer.blocks"}
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name


def reference(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """[B, L, ROWS] logits of the transformers model where every position sees the whole row."""
    count, length = ids.shape
    with torch.no_grad():
        if hasattr(model, "lm_head"):
            everything = torch.zeros(count, 1, length, length, dtype=model.dtype)
            return model(input_ids=ids, attention_mask=everything, use_cache=False).logits
        return model(input_ids=ids).logits
