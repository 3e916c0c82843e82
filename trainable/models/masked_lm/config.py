"""Settings of the masked language model. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from spaces.config import PluginRef
from trainable.registry import Params, Rule

BodyName = Literal["bert", "modernbert", "llama"]
MOST_HEAD = 512
"""Values of one attention head."""


LATER = ("norm_eps", "rope_theta", "qkv_bias", "global_every", "local_window", "local_rope_theta")
"""Settings that came after the first bases: at their defaults, keys of bases do not name them."""
USUAL: dict[str, dict[str, float]] = {
    "bert": {"norm_eps": 1e-12}, "modernbert": {"norm_eps": 1e-5, "rope_theta": 160000.0},
    "llama": {"norm_eps": 1e-6, "rope_theta": 10000.0}}
"""What null means for a body."""
HEAD_EPS = 1e-5
"""What null means for the norm before the head."""


class MaskedLMConfig(Params):
    """Shape of a masked LM. The defaults are BERT base's, the size of MDLM's "small" (arXiv 2406.07524)."""

    name: ClassVar[str] = "masked_lm"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("diffusion.name", lambda name, own: name == "masked",
             "corrupts text in a way that model masked_lm does not read; legal: masked"),
        Rule("corpus.max_length", lambda length, own: length <= own.positions,
             "should be at most model.positions={positions}"),
        Rule("quantization.embedding_rms", lambda rms, own: rms is None,
             "is for models that normalize their rows; model masked_lm does not"),
    )

    body: BodyName = Field("bert",
                           description="bert: learned positions, norm after each block; modernbert: rotary, "
                                       "gated feed-forward; llama: rotary, RMS norm, attention on both sides")
    hidden: int = Field(768, ge=8, le=65_536,
                        description="width of the body and of the token table; a multiple of heads")
    layers: int = Field(12, ge=1, le=512, description="transformer layers")
    heads: int = Field(12, ge=1, le=1_024, description="attention heads")
    kv_heads: int | None = Field(None, ge=1, le=1024,
                                 description="heads of keys and values (llama); null: as many as heads")
    ffn: int = Field(3072, ge=8, le=262_144, description="width of the feed-forward layers")
    positions: int = Field(512, ge=4, le=65_536,
                           description="longest row, and rows of a learned position table")
    dropout: float = Field(0.0, ge=0, lt=1, description="in the body, while training (bert, modernbert)")
    tied: bool = Field(True, description="the head's matrix is the token table")
    transform: bool = Field(False, description="a linear layer, gelu and norm before the head, "
                                               "as BERT's own head has")
    self_conditioning: bool = Field(False,
                                    description="the expected embedding of the previous guess is an input")
    shift: bool | None = Field(None, description="logits of a position come from the state one to its left "
                                                 "(Dream, A2D); null: as diffusion.recipe has it")
    norm_eps: float | None = Field(
        None, gt=0, description="added to the variance in norms; null: as usual for the body (bert 1e-12, "
                                "modernbert 1e-5, llama 1e-6)")
    rope_theta: float | None = Field(
        None, gt=0, description="base of rotary positions; null: as usual for the body (modernbert 160000, "
                                "llama 10000)")
    qkv_bias: bool = Field(False, description="llama: query, key and value have a bias (Qwen2, Dream)")
    global_every: int = Field(1, ge=1, le=16,
                              description="modernbert: one layer of so many attends to the whole "
                                          "row, the others to local_window positions")
    local_window: int = Field(128, ge=2, description="modernbert: positions that the other layers attend to")
    local_rope_theta: float = Field(10000.0, gt=0, description="modernbert: rope_theta of the other layers")
    conditions: tuple[PluginRef, ...] = Field(
        (), description="control tasks whose targets the model is told while it trains, "
                        "for classifier-free guidance")

    @model_validator(mode="after")
    def _consistent(self) -> MaskedLMConfig:
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}")
        if self.hidden // self.heads > MOST_HEAD:
            raise ValueError(f"heads of {self.hidden // self.heads} values; at most {MOST_HEAD}")
        if self.body != "bert" and (self.hidden // self.heads) % 2:
            raise ValueError(f"rotary positions need an even hidden / heads, not {self.hidden // self.heads}")
        if self.kv_heads and (self.body != "llama" or self.heads % self.kv_heads):
            raise ValueError(f"kv_heads={self.kv_heads} is for body llama and must divide heads={self.heads}")
        if self.qkv_bias and self.body != "llama":
            raise ValueError("qkv_bias is for body llama")
        if self.global_every > 1 and self.body != "modernbert":
            raise ValueError("global_every is for body modernbert")
        if self.body == "llama" and self.dropout:
            raise ValueError("body llama has no dropout: set dropout 0")
        return self
