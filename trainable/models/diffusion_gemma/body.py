"""transformers' DiffusionGemma with each weight once: what its encoder and decoder share is the decoder's,
and the encoder asks for it.

transformers ties weights by name and copies modules, so that a quantizer, an adapter or an export would meet
each of them twice. The vision tower is left out: texts are all there is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DiffusionGemmaConfig as TransformersConfig
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma import DiffusionGemmaTextConfig
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaTextRotaryEmbedding

from trainable.corpora.special import END, PAD, START
from trainable.models.diffusion_gemma.config import DiffusionGemmaConfig

VISION = {"model_type": "gemma4_vision", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
          "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8}
"""The smallest that the class can be built with; it is taken out again."""


class Asked(nn.Module):
    """Stands for a module of the decoder as it is when it is called: quantizers and adapters replace such
    modules. Its `forward` is called past its hooks, which count what the decoder sees."""

    def __init__(self, owner: nn.Module, name: str):
        super().__init__()
        self._owner, self._name = (owner,), name  # in a tuple: no part of this module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the decoder's module has it."""
        return getattr(self._owner[0], self._name).forward(*args, **kwargs)


class TiedHead(nn.Module):
    """Logits by the token table as it is when it is called."""

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self._table = (table,)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., V]."""
        return F.linear(hidden, self._table[0].weight)


class Scores(nn.Module):
    """A router's linear map, which no quantizer takes for a layer: a flipped choice of experts costs more
    than its few values."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., experts]."""
        return F.linear(x, self.weight)


def transformers_config(params: DiffusionGemmaConfig, vocabulary: int) -> TransformersConfig:
    """What transformers calls the same shape, for a table of `vocabulary` rows in our order."""
    kinds = ["full_attention" if wide else "sliding_attention" for wide in params.wide_layers]
    text = DiffusionGemmaTextConfig(
        vocab_size=vocabulary, hidden_size=params.hidden, intermediate_size=params.ffn,
        num_hidden_layers=params.layers, num_attention_heads=params.heads,
        num_key_value_heads=params.meant("kv_heads"), head_dim=params.meant("head_dim"),
        global_head_dim=params.meant("global_head_dim"),
        num_global_key_value_heads=params.meant("global_kv_heads"), num_experts=params.experts,
        top_k_experts=params.top_experts, moe_intermediate_size=params.meant("expert_ffn"),
        layer_types=kinds, sliding_window=params.local_window, rms_norm_eps=params.norm_eps,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": params.local_rope_theta},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": params.rope_share,
                               "rope_theta": params.rope_theta}},
        max_position_embeddings=params.positions, bos_token_id=START, eos_token_id=END, pad_token_id=PAD)
    text.final_logit_softcapping = params.softcap
    # token ids of images that no text holds
    return TransformersConfig(text_config=text, vision_config=VISION, canvas_length=params.positions - 1,
                              image_token_id=vocabulary, boi_token_id=vocabulary, eoi_token_id=vocabulary)


def experts_by(params: DiffusionGemmaConfig) -> str:
    """How transformers multiplies experts: all at once, which asks for rows of whole 16 bytes, or one by
    one."""
    return "eager" if params.hidden % 8 or params.meant("expert_ffn") % 8 else "grouped_mm"


def make(params: DiffusionGemmaConfig, vocabulary: int) -> DiffusionGemmaForBlockDiffusion:
    """The model with each weight in its decoder alone. Weights are meant to be drawn anew or assigned; on the
    meta device everything stays there but what is computed and not saved."""
    config = transformers_config(params, vocabulary)
    with torch.random.fork_rng(devices=[]):
        made = DiffusionGemmaForBlockDiffusion(config)
    made.set_experts_implementation(experts_by(params))
    decoder, encoder = made.model.decoder, made.model.encoder
    decoder.embed_tokens.padding_idx = None  # PAD is a word like others
    for layer in decoder.layers:
        layer.router.proj = Scores(layer.router.proj.weight)
    made.lm_head = TiedHead(decoder.embed_tokens)
    encoder.vision_tower, encoder.embed_vision = nn.Identity(), nn.Identity()
    reader = encoder.language_model
    reader.embed_tokens, reader.norm = Asked(decoder, "embed_tokens"), Asked(decoder, "norm")
    for own, other in zip(reader.layers, decoder.layers, strict=True):
        for name, child in list(other.named_children()):
            if name in ("self_attn", "mlp"):  # their Linears one by one, past the hooks of each
                for part in dict(child.named_children()):
                    setattr(getattr(own, name), part, Asked(child, part))
            else:
                setattr(own, name, Asked(other, name))
    if decoder.embed_tokens.weight.is_meta:
        with torch.device("cpu"):
            reader.rotary_emb = DiffusionGemmaTextRotaryEmbedding(config.text_config)
            decoder.rotary_emb = DiffusionGemmaTextRotaryEmbedding(config.text_config)
            decoder.embed_tokens.embed_scale = nn.Buffer(torch.tensor(params.hidden**0.5), persistent=False)
    return made.eval()
