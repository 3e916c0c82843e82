"""Settings of the masked language model. No torch here: spaces and the command line read them too."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainable.registry import Params

Body = Literal["bert", "modernbert", "llama"]


class MaskedLMParams(Params):
    """Shape of a `MaskedLM`. The defaults are BERT base's, the size of MDLM's "small" (arXiv 2406.07524)."""

    body: Body = Field("bert", description="bert: learned positions, norm after each block; modernbert: rotary, "
                                           "gated feed-forward; llama: rotary, RMS norm, attention made bidirectional")
    hidden: int = Field(768, ge=8, description="width of the body and of the token table; a multiple of heads")
    layers: int = Field(12, ge=1, description="transformer layers")
    heads: int = Field(12, ge=1, description="attention heads")
    kv_heads: int | None = Field(None, ge=1, description="heads of keys and values (llama); null: as many as heads")
    ffn: int = Field(3072, ge=8, description="width of the feed-forward layers")
    positions: int = Field(512, ge=4, description="longest row, and rows of a learned position table")
    dropout: float = Field(0.0, ge=0, lt=1, description="in the body, while training (bert, modernbert)")
    tied: bool = Field(True, description="the head's matrix is the token table")
    transform: bool = Field(False, description="a linear layer, gelu and norm before the head, as BERT's own head has")
    self_conditioning: bool = Field(False, description="the expected embedding of the previous guess is an input")
    shift: bool = Field(False, description="logits of a position come from the state one to its left (Dream, A2D)")

    @model_validator(mode="after")
    def _consistent(self) -> MaskedLMParams:
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}")
        if self.body != "bert" and (self.hidden // self.heads) % 2:
            raise ValueError(f"rotary positions need an even hidden / heads, not {self.hidden // self.heads}")
        if self.kv_heads and (self.body != "llama" or self.heads % self.kv_heads):
            raise ValueError(f"kv_heads={self.kv_heads} is for body llama and must divide heads={self.heads}")
        if self.body == "llama" and self.dropout:
            raise ValueError("body llama has no dropout: set dropout 0")
        return self
