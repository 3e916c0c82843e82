"""Transformer bodies for the masked LM, built from their configurations; attention sees both sides
in all of them."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainable.models.masked_lm.config import USUAL, MaskedLMConfig

if TYPE_CHECKING:  # transformers takes seconds to import: who has a body of it does, in its maker
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Names:
    """What a body calls its parts: regular expressions of module names."""

    attention: str
    ffn: str
    lora: dict[str, str]

    def site(self, role: str) -> re.Pattern[str]:
        """Pattern of the Linears that play a role, `attention` or `ffn`."""
        return re.compile(rf"\.(?:{getattr(self, role)})$")


NAMES = {
    "bert": Names(
        r"attention\.(?:self\.(?:query|key|value)|output\.dense)", r"\d+\.(?:intermediate|output)\.dense",
        {"query": r"self\.query", "key": r"self\.key", "value": r"self\.value",
         "output": r"attention\.output\.dense", "ffn": r"\d+\.(?:intermediate|output)\.dense"}),
    # One matrix holds query, key and value: an adapter on any of them is one on all.
    "modernbert": Names(
        r"attn\.(?:Wqkv|Wo)", r"mlp\.(?:Wi|Wo)",
        {"query": r"attn\.Wqkv", "key": r"attn\.Wqkv", "value": r"attn\.Wqkv", "output": r"attn\.Wo",
         "ffn": r"mlp\.(?:Wi|Wo)"}),
    "llama": Names(
        r"self_attn\.[qkvo]_proj", r"mlp\.(?:gate|up|down)_proj",
        {"query": r"self_attn\.q_proj", "key": r"self_attn\.k_proj", "value": r"self_attn\.v_proj",
         "output": r"self_attn\.o_proj", "ffn": r"mlp\.(?:gate|up|down)_proj"}),
}


def make_body(params: MaskedLMConfig) -> PreTrainedModel:
    """A transformers model without a token table: it reads embeddings.

    Weights are meant to be drawn anew by `initialize`; what transformers draws comes from torch's global
    generator, which is put back. On the meta device everything stays there but what is computed and not saved
    (rotary frequencies).
    """
    with torch.random.fork_rng(devices=[]):
        body = _MAKERS[params.body](params)
        body.set_input_embeddings(nn.Identity())
        if next(body.parameters()).is_meta:
            with torch.device("cpu"):
                # no larger than the buffers ask for, whatever the widths are: its weights are not wanted
                few = min(params.layers, params.global_every + 1)
                width = 8 if params.body == "bert" else params.hidden // params.heads
                computed = make_body(params.model_copy(update={
                    "layers": few, "heads": 1, "kv_heads": None, "hidden": width, "ffn": 8}))
            for name, buffer in computed.named_buffers():
                owner, _, leaf = name.rpartition(".")
                setattr(body.get_submodule(owner), leaf, buffer)
    return body


@torch.no_grad()
def with_table(body: Any, table: Tensor) -> Any:
    """The body as the transformers model of its class, which reads token ids: with `table` [V, hidden] as its
    input embeddings. A pooler, which some classes have, is zero: nothing here trains one."""
    config = copy.deepcopy(body.config)
    config.vocab_size = len(table)
    with torch.random.fork_rng(devices=[]):
        made = type(body)(config).eval()
    pooler = {name: torch.zeros_like(value) for name, value in made.state_dict().items()
              if name.startswith("pooler.")}
    made.load_state_dict({**body.state_dict(), **pooler}, strict=False)
    made.get_input_embeddings().weight.copy_(table)
    return made


def run_body(body: Any, inputs: Tensor) -> Tensor:
    """[B, L, hidden] embeddings -> the last state. Positions are told, not read from a buffer, which
    may lie elsewhere."""
    positions = torch.arange(inputs.shape[1], device=inputs.device)[None]
    told = {"token_type_ids": torch.zeros_like(positions)} if body.config.model_type == "bert" else {}
    return body(inputs_embeds=inputs, position_ids=positions, **told).last_hidden_state


def initialize(module: nn.Module, hidden: int, generator: torch.Generator) -> None:
    """BERT's rule, N(0, 0.02) at hidden 768, scaled to other widths as 1 / sqrt(hidden); biases 0,
    norms as they are.

    Unscaled, a narrow body starts almost linear and stays word salad for thousands of steps.
    """
    std = 0.02 * (768 / hidden) ** 0.5
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std, generator=generator)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)


def usual(params: MaskedLMConfig, name: str) -> float:
    """A setting, or what null means for the body."""
    value = getattr(params, name)
    return USUAL[params.body][name] if value is None else value


def _rotary(theta: float) -> dict[str, str | float]:
    return {"rope_type": "default", "rope_theta": theta}


def _bert(params: MaskedLMConfig) -> PreTrainedModel:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(
        vocab_size=1, hidden_size=params.hidden, num_hidden_layers=params.layers,
        num_attention_heads=params.heads, intermediate_size=params.ffn,
        max_position_embeddings=params.positions, hidden_dropout_prob=params.dropout,
        attention_probs_dropout_prob=params.dropout, type_vocab_size=1, pad_token_id=None,
        layer_norm_eps=usual(params, "norm_eps"), attn_implementation="sdpa"), add_pooling_layer=False)


def _modernbert(params: MaskedLMConfig) -> PreTrainedModel:
    from transformers import ModernBertConfig, ModernBertModel

    # Unless asked for, every layer attends to the whole row: rows are short here, and a local window would
    # hide the prompt.
    wide, near = "full_attention", "sliding_attention"
    kinds = [near if i % params.global_every else wide for i in range(params.layers)]
    rotary = {wide: usual(params, "rope_theta"), near: params.local_rope_theta}
    return ModernBertModel(ModernBertConfig(
        vocab_size=1, hidden_size=params.hidden, num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        intermediate_size=params.ffn, max_position_embeddings=params.positions,
        layer_types=kinds, local_attention=params.local_window, norm_eps=usual(params, "norm_eps"),
        rope_parameters={kind: _rotary(theta) for kind, theta in rotary.items()},
        embedding_dropout=params.dropout,
        attention_dropout=params.dropout, mlp_dropout=params.dropout, pad_token_id=None, bos_token_id=None,
        eos_token_id=None, cls_token_id=None, sep_token_id=None, attn_implementation="sdpa"))


def _llama(params: MaskedLMConfig) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model

    # With a bias on query, key and value alone, a Llama is a Qwen2, part by part.
    make, body = (Qwen2Config, Qwen2Model) if params.qkv_bias else (LlamaConfig, LlamaModel)
    config = make(
        vocab_size=1, hidden_size=params.hidden, num_hidden_layers=params.layers,
        num_attention_heads=params.heads, num_key_value_heads=params.kv_heads or params.heads,
        intermediate_size=params.ffn, max_position_embeddings=params.positions, use_cache=False,
        rms_norm_eps=usual(params, "norm_eps"),
        rope_parameters=_rotary(usual(params, "rope_theta")), pad_token_id=None, bos_token_id=None,
        eos_token_id=None, attn_implementation="sdpa")
    config.is_causal = False  # transformers then builds a bidirectional mask
    return body(config)


_MAKERS = {"bert": _bert, "modernbert": _modernbert, "llama": _llama}
