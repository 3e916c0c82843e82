"""Where the weights of a DiffusionGemma stand in a checkpoint of transformers, and what its config means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainable.models.backbone import Backbone
from trainable.models.pretrained.checkpoint import HuggingFaceFolder
from trainable.models.pretrained.tables import Source, gathered

if TYPE_CHECKING:
    from transformers.models.diffusion_gemma import DiffusionGemmaTextConfig

TABLE = "model.decoder.embed_tokens.weight"
_PARTS = {"body.": "model.decoder.layers.", "norm.": "model.decoder.norm.",
          "feedback.": "model.decoder.self_conditioning.", "reader.": "model.encoder."}
"""How our names begin -> how theirs do. What encoder and decoder share is saved as the decoder's."""
_FULL, _NEAR = "full_attention", "sliding_attention"
_ROTARY = {_FULL: "proportional", _NEAR: "default"}


def shape(folder: HuggingFaceFolder) -> dict[str, Any]:
    """Values of our settings that its config.json means, as transformers reads it. Raises `UserError` for
    what the text part here does not have."""
    text = _text(folder)
    kinds, layers = list(text.layer_types), text.num_hidden_layers
    every = next(place for place, kind in enumerate(kinds, 1) if kind == _FULL)
    if kinds != [_FULL if place % every == 0 or place == layers else _NEAR for place in range(1, layers + 1)]:
        raise folder.problem("config.json: text_config.layer_types are not one global layer in every so many")
    each = [(kind, text.per_layer_config[place]) for place, kind in enumerate(kinds)]
    heads = {kind: {(layer.num_key_value_heads, layer.head_dim) for own, layer in each if own == kind}
             for kind in _ROTARY}
    if any(len(found) > 1 for found in heads.values()):
        raise folder.problem("config.json: text_config: layers of one kind differ in their heads")
    wide = min(heads[_FULL])
    near = min(heads[_NEAR], default=wide)
    rope = {kind: text.rope_parameters[kind] for kind in _ROTARY}
    for kind, legal in _ROTARY.items():
        if rope[kind].get("rope_type") != legal:
            raise folder.problem(f"config.json: text_config.rope_parameters.{kind}.rope_type="
                                 f"{rope[kind].get('rope_type')!r} is not supported; legal: {legal!r}")
    return {"hidden": text.hidden_size, "layers": layers, "heads": text.num_attention_heads,
            "kv_heads": near[0], "head_dim": near[1], "global_kv_heads": wide[0], "global_head_dim": wide[1],
            "ffn": text.intermediate_size, "experts": text.num_experts, "top_experts": text.top_k_experts,
            "expert_ffn": text.moe_intermediate_size,
            "positions": int(folder.config.get("canvas_length") or 256) + 1, "global_every": every,
            "local_window": text.sliding_window, "rope_theta": float(rope[_FULL]["rope_theta"]),
            "rope_share": float(rope[_FULL].get("partial_rotary_factor", 1.0)),
            "local_rope_theta": float(rope[_NEAR]["rope_theta"]),
            "softcap": float(text.final_logit_softcapping), "norm_eps": text.rms_norm_eps}


def _text(folder: HuggingFaceFolder) -> DiffusionGemmaTextConfig:
    from transformers.models.diffusion_gemma import DiffusionGemmaTextConfig

    said = folder.config.get("text_config")
    if not isinstance(said, dict):
        raise folder.problem("config.json: no text_config")
    try:
        text = DiffusionGemmaTextConfig(**said)
    except Exception as error:  # its validators raise errors of several libraries
        reason = " ".join(str(error).split())[:120]
        raise folder.problem(f"config.json: text_config cannot be read ({reason})") from None
    for name, legal in (("hidden_activation", "gelu_pytorch_tanh"), ("attention_bias", False),
                        ("tie_word_embeddings", True)):
        if getattr(text, name) != legal:
            raise folder.problem(f"config.json: text_config.{name}={getattr(text, name)!r} is not supported; "
                                 f"legal: {legal!r}")
    if text.use_bidirectional_attention == "all":
        raise folder.problem("config.json: text_config.use_bidirectional_attention='all' is not supported; "
                             "legal: null, 'vision'")
    for name in ("num_experts", "top_k_experts", "moe_intermediate_size"):
        if getattr(text, name) is None:
            raise folder.problem(f"config.json: text_config: no {name}")
    return text


def state_of(model: Backbone, folder: HuggingFaceFolder,
             sources: Sequence[Source]) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every tensor of a `DiffusionGemma`, in the checkpoint's dtype. `sources`: rows of its
    table for each of ours; MASK's, the last, is left out. Raises `UserError` for a tensor that is missing or
    of another shape."""
    for name, value in model.state_dict().items():
        if name == "word_embedding.weight":
            yield name, gathered(folder.tensor(TABLE), sources[:len(value)])
            continue
        start = next(start for start in _PARTS if name.startswith(start))
        theirs = f"{_PARTS[start]}{name.removeprefix(start)}"
        found = folder.tensor(theirs)
        if found.shape != value.shape:
            raise folder.problem(f"{theirs} has shape {tuple(found.shape)}, its config says "
                                 f"{tuple(value.shape)}")
        yield name, found
