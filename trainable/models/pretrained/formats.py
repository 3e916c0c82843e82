"""Checkpoint formats that a backbone can begin from: the shape that a config means, and what each of its
tensors is called there. A new format is one entry of `FORMATS`.

Sources of the names: transformers (BERT, ModernBERT, Llama, Mistral, Qwen2), the released modeling files of
LLaDA (GSAI-ML/LLaDA-8B-Base, an OLMo body) and Dream (Dream-org/Dream-v0-Base-7B, a Qwen2 body).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainable.models.backbone import Backbone
from trainable.models.diffusion_gemma.config import DiffusionGemmaConfig
from trainable.models.masked_lm.config import MaskedLMConfig
from trainable.models.masked_lm.heads import HEADS
from trainable.models.pretrained import diffusion_gemma
from trainable.models.pretrained.checkpoint import HuggingFaceFolder
from trainable.models.pretrained.tables import Source

Shape = dict[str, Any]
"""Values of a backbone's settings that a config means."""

State = Callable[[Backbone, HuggingFaceFolder, Sequence[Source]], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Format:
    """One class of checkpoints."""

    shape: Callable[[HuggingFaceFolder], Shape]
    prefix: str
    """What stands before the body's names there, where the checkpoint has a head."""
    table: str
    """The token table, `prefix` left out."""
    rename: Callable[[str], str]
    """Our name of a tensor of the body -> theirs, `prefix` left out."""
    head: Mapping[str, str]
    """Our name of a tensor behind the body -> theirs; what is not in the file stays 0 or as a norm starts."""
    shifted: bool = False
    """Whether the state of a position says what stands right of it."""
    config: type[MaskedLMConfig] | type[DiffusionGemmaConfig] = MaskedLMConfig
    """Settings of the backbone that it becomes."""
    masks: bool = True
    """Whether it was trained with a MASK, unless it is shifted."""
    state: State | None = None
    """All tensors of the backbone, where that is no masked LM: `head` and `rename` are not read then."""

    def table_in(self, folder: HuggingFaceFolder) -> str:
        """The token table's name in a folder."""
        return f"{self.prefix_in(folder)}{self.table}.weight"

    def prefix_in(self, folder: HuggingFaceFolder) -> str:
        """What stands before the body's names: nothing in a checkpoint of the body alone."""
        return "" if f"{self.prefix}{self.table}.weight" not in folder.names else self.prefix


def _same(name: str) -> str:
    return name


_LLADA_PARTS = {
    "self_attn.q_proj": "q_proj", "self_attn.k_proj": "k_proj", "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out", "mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out", "input_layernorm": "attn_norm", "post_attention_layernorm": "ff_norm"}


def _llada(name: str) -> str:
    """`layers.3.mlp.gate_proj.weight` -> `blocks.3.ff_proj.weight`."""
    if not name.startswith("layers."):
        return name.replace("norm.", "ln_f.")
    _, number, rest = name.split(".", 2)
    part, _, leaf = rest.rpartition(".")
    return f"blocks.{number}.{_LLADA_PARTS[part]}.{leaf}"


def _expect(folder: HuggingFaceFolder, **wanted: Any) -> None:
    """Raises `UserError` where the config says something that the body does not have."""
    for name, value in wanted.items():
        found = folder.config.get(name)
        if found is not None and found != value:
            raise folder.problem(f"config.json: {name}={found!r} is not supported; legal: {value!r}")


def _theta(folder: HuggingFaceFolder, kind: str | None = None) -> float:
    """Base of the rotary positions, as older and newer configs say it."""
    said = folder.config.get("rope_parameters") or {}
    said = said.get(kind, said) if kind else said
    scaling = folder.config.get("rope_scaling") or said
    if scaling and scaling.get("rope_type", scaling.get("type", "default")) != "default":
        raise folder.problem("config.json: rope_scaling is not supported; legal: rotary positions without it")
    return float(said.get("rope_theta", folder.config.get("rope_theta", 10000.0)))


def _number(folder: HuggingFaceFolder, *names: str, default: Any = None) -> Any:
    """The first of some keys that the config has."""
    for name in names:
        if folder.config.get(name) is not None:
            return folder.config[name]
    if default is None:
        raise folder.problem(f"config.json: no {names[0]}")
    return default


def _bert(folder: HuggingFaceFolder) -> Shape:
    _expect(folder, hidden_act="gelu", position_embedding_type="absolute", is_decoder=False)
    return {"body": "bert", "hidden": _number(folder, "hidden_size"),
            "layers": _number(folder, "num_hidden_layers"), "heads": _number(folder, "num_attention_heads"),
            "ffn": _number(folder, "intermediate_size"), "tied": True,
            "positions": _number(folder, "max_position_embeddings"),
            "transform": "cls.predictions.transform.dense.weight" in folder.names,
            "norm_eps": _number(folder, "layer_norm_eps", default=1e-12)}


def _modernbert(folder: HuggingFaceFolder) -> Shape:
    _expect(folder, hidden_activation="gelu", attention_bias=False, mlp_bias=False, norm_bias=False,
            classifier_bias=False, classifier_activation="gelu", tie_word_embeddings=True)
    layers = _number(folder, "num_hidden_layers")
    kinds = folder.config.get("layer_types")
    if kinds is None:
        every = _number(folder, "global_attn_every_n_layers", default=3)
    else:
        every = next((i for i in range(1, layers) if kinds[i] == "full_attention"), layers)
    if kinds is not None and kinds != ["sliding_attention" if i % every else "full_attention"
                                       for i in range(layers)]:
        raise folder.problem("config.json: layer_types are not one global layer in every so many")
    both = folder.config.get("rope_parameters") is not None
    wide = (_theta(folder, "full_attention") if both
            else _number(folder, "global_rope_theta", default=160000.0))
    near = (_theta(folder, "sliding_attention") if both
            else _number(folder, "local_rope_theta", default=10000.0))
    return {"body": "modernbert", "hidden": _number(folder, "hidden_size"), "layers": layers,
            "heads": _number(folder, "num_attention_heads"), "ffn": _number(folder, "intermediate_size"),
            "positions": _number(folder, "max_position_embeddings"), "tied": True, "transform": True,
            "norm_eps": _number(folder, "norm_eps", default=1e-5), "rope_theta": wide,
            "global_every": every, "local_window": _number(folder, "local_attention", default=128),
            "local_rope_theta": near}


def _causal(folder: HuggingFaceFolder) -> Shape:
    _expect(folder, hidden_act="silu", mlp_bias=False, pretraining_tp=1)
    if folder.config.get("sliding_window") is not None and folder.config.get("use_sliding_window", True):
        raise folder.problem("config.json: sliding_window is not supported; legal: null")
    hidden, heads = _number(folder, "hidden_size"), _number(folder, "num_attention_heads")
    _expect(folder, head_dim=hidden // heads)
    if "o_proj.bias" in " ".join(folder.names):
        raise folder.problem("config.json: attention_bias also of the output is not supported")
    return {"body": "llama", "hidden": hidden, "layers": _number(folder, "num_hidden_layers"), "heads": heads,
            "kv_heads": _number(folder, "num_key_value_heads", default=heads),
            "ffn": _number(folder, "intermediate_size"),
            "positions": _number(folder, "max_position_embeddings"),
            "tied": "lm_head.weight" not in folder.names, "transform": False,
            "norm_eps": _number(folder, "rms_norm_eps", default=1e-6), "rope_theta": _theta(folder),
            "qkv_bias": "model.layers.0.self_attn.q_proj.bias" in folder.names}


def _llada_shape(folder: HuggingFaceFolder) -> Shape:
    _expect(folder, block_type="llama", activation_type="silu", layer_norm_type="rms", rope=True, alibi=False,
            attention_layer_norm=False, include_bias=False, scale_logits=False, input_emb_norm=False,
            multi_query_attention=False)
    heads, hidden = _number(folder, "n_heads"), _number(folder, "d_model")
    return {"body": "llama", "hidden": hidden, "layers": _number(folder, "n_layers"), "heads": heads,
            "kv_heads": _number(folder, "n_kv_heads", default=heads),
            "ffn": _number(folder, "mlp_hidden_size", default=hidden * folder.config.get("mlp_ratio", 4)),
            "positions": _number(folder, "max_sequence_length"), "transform": False,
            "tied": "model.transformer.ff_out.weight" not in folder.names,
            "norm_eps": _number(folder, "rms_norm_eps", default=1e-5), "rope_theta": _theta(folder),
            "qkv_bias": bool(folder.config.get("include_qkv_bias", False))}


_LLAMA = Format(_causal, "model.", "embed_tokens", _same, HEADS["llama"], shifted=True)
FORMATS: dict[str, Format] = {
    "BertForMaskedLM": Format(_bert, "bert.", "embeddings.word_embeddings", _same, HEADS["bert"]),
    "BertForPreTraining": Format(_bert, "bert.", "embeddings.word_embeddings", _same, HEADS["bert"]),
    "BertModel": Format(_bert, "", "embeddings.word_embeddings", _same, {}),
    "ModernBertForMaskedLM": Format(_modernbert, "model.", "embeddings.tok_embeddings", _same,
                                    HEADS["modernbert"]),
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "DreamModel": _LLAMA,
    "LLaDAModelLM": Format(_llada_shape, "model.transformer.", "wte", _llada,
                           {"head": "model.transformer.ff_out"}),
    "DiffusionGemmaForBlockDiffusion": Format(
        diffusion_gemma.shape, "model.decoder.", "embed_tokens", _same, {}, config=DiffusionGemmaConfig,
        masks=False, state=diffusion_gemma.state_of),
}
"""By the class that config.json names first."""


def format_of(folder: HuggingFaceFolder) -> Format:
    """Raises `UserError` for a class that is not among `FORMATS`."""
    name = folder.architecture
    if name in FORMATS:
        return FORMATS[name]
    own = "; its auto_map asks for code of its own, which is never run" if "auto_map" in folder.config else ""
    raise folder.problem(f"config.json: architectures: {name or 'none'} is no known class{own}; legal: "
                         f"{', '.join(FORMATS)}")


def written(shape: Mapping[str, Any], config: type[MaskedLMConfig] | type[DiffusionGemmaConfig]) -> str:
    """A shape as a space file says it; what a model has anyway is left out."""
    usual = {name: field.default for name, field in config.model_fields.items()}
    said = [f"{name}: {str(value).lower() if isinstance(value, bool) else value}"
            for name, value in shape.items() if value != usual[name] and value is not None]
    return f"model: {{name: {config.name}, {', '.join(said)}}}"
