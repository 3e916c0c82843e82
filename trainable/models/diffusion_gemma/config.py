"""Settings of the DiffusionGemma backbone. Imports no torch."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from trainable.registry import Params, Rule


class DiffusionGemmaConfig(Params):
    """Shape of a `diffusion_gemma` of transformers, its text part alone."""

    name: ClassVar[str] = "diffusion_gemma"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("diffusion.name", lambda name, own: name == "canvas",
             "corrupts text in a way that model diffusion_gemma does not read; legal: canvas"),
        Rule("corpus.max_length", lambda length, own: length <= own.positions,
             "should be at most model.positions={positions}"),
        Rule("quantization.embedding_rms", lambda rms, own: rms is None,
             "is for models that normalize their rows; model diffusion_gemma does not"),
        Rule("calibration.source", lambda source, own: not source.startswith("rollout"),
             "needs to see what a sampler asks, and model diffusion_gemma samples by its own generate; "
             "legal: clean, corrupted"),
        Rule("calibration.offload", lambda offload, own: not offload,
             "takes blocks that run by themselves, and both halves of model diffusion_gemma read the same "
             "ones; legal: false"),
    )

    hidden: int = Field(2304, ge=8, le=65_536, description="width of the body and of the token table")
    layers: int = Field(30, ge=1, le=512, description="transformer layers")
    heads: int = Field(8, ge=1, le=1_024, description="attention heads")
    kv_heads: int | None = Field(None, ge=1, le=1024, description="heads of keys and values in layers with a "
                                                                  "window; null: as many as heads")
    head_dim: int | None = Field(None, ge=2, description="values of a head there; null: hidden / heads")
    global_kv_heads: int | None = Field(None, ge=1, le=1024, description="the same in layers that see the "
                                                                         "whole row; null: kv_heads")
    global_head_dim: int | None = Field(None, ge=2, description="values of a head there; null: head_dim")
    ffn: int = Field(9216, ge=8, le=262_144, description="width of the feed-forward layers")
    experts: int = Field(4, ge=1, le=4096, description="experts beside each feed-forward layer")
    top_experts: int = Field(2, ge=1, description="experts that a token goes to")
    expert_ffn: int | None = Field(None, ge=2, description="width of an expert; null: ffn")
    positions: int = Field(257, ge=4, le=65_536, description="longest row: START and one canvas")
    global_every: int = Field(6, ge=1, le=64, description="one layer of so many sees the whole row, and the "
                                                          "last does; the others see local_window positions")
    local_window: int = Field(512, ge=2, description="positions that the other layers see")
    rope_theta: float = Field(1e6, gt=0, description="base of rotary positions in layers that see the whole "
                                                     "row")
    rope_share: float = Field(0.25, gt=0, le=1, description="share of a head's values that is rotated there")
    local_rope_theta: float = Field(1e4, gt=0, description="base of rotary positions in the other layers")
    softcap: float = Field(30.0, gt=0, description="logits are softcap * tanh(logits / softcap)")
    norm_eps: float = Field(1e-6, gt=0, description="added to the mean square in norms")

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionGemmaConfig:
        if self.head_dim is None and self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}; set head_dim")
        for name, value in (("kv_heads", self.kv_heads), ("global_kv_heads", self.global_kv_heads)):
            if value and self.heads % value:
                raise ValueError(f"{name}={value} must divide heads={self.heads}")
        if self.top_experts > self.experts:
            raise ValueError(f"top_experts={self.top_experts} of experts={self.experts}")
        return self

    def meant(self, name: str) -> Any:
        """A setting, or what null means for it."""
        value = getattr(self, name)
        if value is not None:
            return value
        if name.startswith("global_"):
            return self.meant(name.removeprefix("global_"))
        return {"kv_heads": self.heads, "head_dim": self.hidden // self.heads, "expert_ffn": self.ffn}[name]

    @property
    def wide_layers(self) -> list[bool]:
        """Which layers see the whole row."""
        return [number % self.global_every == 0 or number == self.layers
                for number in range(1, self.layers + 1)]
