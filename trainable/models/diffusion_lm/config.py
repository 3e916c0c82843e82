"""Settings of Diffusion-LM's denoiser. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from spaces.config import PluginRef
from trainable.registry import Params, Rule


class DiffusionLMConfig(Params):
    """Shape of the denoiser. The defaults are the published E2E model (87,129,749 parameters
    at 821 words)."""

    name: ClassVar[str] = "diffusion_lm"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("diffusion.name", lambda name, own: name == "gaussian",
             "adds noise that model diffusion_lm does not read; legal: gaussian"),
        Rule("corpus.max_length", lambda length, own: length <= own.positions,
             "should be at most model.positions={positions}"),
        Rule("quantization.embedding_rms", lambda rms, own: rms is None or own.normalize_embeddings,
             "needs model.normalize_embeddings: true, since without it the scale of the rows is part of what "
             "the model computes"),
    )

    embedding_dim: int = Field(16, ge=2, le=16_384,
                               description="width of a word's embedding, where the noise is added")
    hidden: int = Field(768, ge=8, le=65_536,
                        description="width of the transformer body; a multiple of heads")
    layers: int = Field(12, ge=1, le=512, description="transformer layers")
    heads: int = Field(12, ge=1, le=1_024, description="attention heads")
    ffn: int = Field(3072, ge=8, le=262_144, description="width of the feed-forward layers")
    time_dim: int = Field(128, ge=2, le=16_384, description="width of the sinusoidal time embedding")
    positions: int = Field(512, ge=8, le=65_536, description="rows of the position table")
    projection_depth: Literal[1, 2] = Field(2, description="layers of the up and down projections")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the body, while training")
    self_conditioning: bool = Field(False, description="the previous x0 prediction is an input")
    normalize_embeddings: bool = Field(False, description="rows scaled to norm sqrt(d) before noise is added")
    rounding: Literal["softmax", "cosine"] = Field("softmax", description="how latents become words")
    embeddings: Literal["learned", "pretrained"] = Field("learned",
                                                         description="where the word table comes from")
    pretrained_path: str | None = Field(None,
                                        description="HF model folder or .safetensors file with the matrix")
    pretrained_trainable: bool = Field(False,
                                       description="fine-tune the pretrained rows instead of freezing them")
    conditions: tuple[PluginRef, ...] = Field(
        (), description="control tasks whose targets the model is told while it trains, "
                        "for classifier-free guidance")

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionLMConfig:
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}")
        if self.embeddings == "pretrained" and not self.pretrained_path:
            raise ValueError("embeddings=pretrained needs pretrained_path")
        return self
