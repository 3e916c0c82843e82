"""What a trial trains: by itself, or as one member of a supernet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spaces.settings import OptimConfig, Settings

MEMBERS = ("scale", "lean", "shrink", "rebase", "slower", "schedule", "mixtures")
"""Settings of how a supernet trains its members, which a trial by itself does not read."""


class AdaptConfig(Settings):
    """What a trial trains: everything outside the body always; the body through the adapter or not at all."""

    mode: Literal["own", "supernet"] = Field(
        "own", description="own: a trial trains by itself; supernet: one run trains all `ranks` at all "
                           "`bits`, and a trial is one of them, measured as it is. Of several rungs the "
                           "lowest is that; above, the trial trains by itself, from the base")
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="supernet: its ranks; a trial's is lora.rank")
    bits: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        (), description="supernet: its bit-widths; a trial's is quantization.quantizer.bits")
    shared: bool = Field(False, description="supernet: what is outside the body is one for all bit-widths; "
                                            "false: one each, as their adapters are")
    scale: Literal["rank", "largest"] = Field(
        "largest", description="supernet: a prefix of rank b is scaled by alpha / b, as LoRA at that rank, "
                               "or by alpha / the largest rank, so that it adds the same whatever follows it")
    lean: float = Field(
        0.7, ge=0, le=2, description="supernet: how much rather few bits are drawn than many: a width of one "
                                     "bit less 2^lean times as often; 0: all alike")
    shrink: float = Field(
        0.6, ge=0, lt=1, description="supernet: the share of its steps, the first ones, which train the "
                                     "largest rank alone; all ranks are drawn in the rest")
    rebase: int = Field(
        4, ge=0, description="supernet: how often its adapters are turned into their singular bases, of "
                             "which a prefix is the best adapter of its rank: first when `shrink` is over, "
                             "last at the end; needs scale: largest; 0: never")
    slower: float = Field(
        1.0, ge=0, le=4, description="supernet: how much slower many bits learn than few, having less to "
                                     "repair: a width of one bit more at 2^-slower times the learning "
                                     "rate; 0: all alike")
    schedule: Literal["width", "run"] = Field(
        "width", description="supernet: the learning rate rises and falls over the steps that a width has, "
                             "as in a run of its own, or over all of the one run")
    mixtures: float = Field(
        0.0, ge=0, le=1, description="supernet: the share of its steps that draw bits for attention and for "
                                     "ffn apart; above 0, a trial may have bits of its own in "
                                     "quantization.per_site.ffn, and what is outside the body is `shared`")
    supernet_steps: int | None = Field(
        None, ge=1, description="supernet: optimizer steps of the one run; null: twice optim.steps")
    train: bool = Field(True, description="false: nothing trains; a rung is then a share of the calibration "
                                          "texts and of the measured samples")
    optim: OptimConfig = OptimConfig(steps=300, lr=1e-3)
    body: Literal["frozen", "trainable"] = Field("frozen", description="whether the body's own weights train")
    hold: Literal["floats", "codes"] = Field(
        "floats", description="what is held of frozen, quantized weights in training; codes: slow and small")
    checkpointing: bool = Field(False, description="gradient checkpointing of the body's blocks: less memory")

    @property
    def apart(self) -> AdaptConfig:
        """The same training, of a trial by itself."""
        return self.model_copy(update={"mode": "own", "ranks": (), "bits": (), "shared": False,
                                       "supernet_steps": None,
                                       **{name: type(self).model_fields[name].default for name in MEMBERS}})

    @model_validator(mode="after")
    def _members(self) -> AdaptConfig:
        for name, values in (("ranks", self.ranks), ("bits", self.bits)):
            if self.mode == "supernet" and not values:
                raise ValueError(f"{name} is empty: a supernet has one or more, such as {name}: [2, 4]")
            if self.mode == "own" and values:
                raise ValueError(f"{name} are a supernet's; legal: mode: supernet, or no {name}")
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"{name} has {twice[0]} more than once")
        if self.mode == "supernet" and not self.train:
            raise ValueError("a supernet trains, and train is false; legal: train: true, or mode: own")
        if self.mode == "supernet" and self.body != "frozen":
            raise ValueError("a supernet's body is shared by its members; legal: body: frozen")
        if self.mode == "supernet" and self.hold != "floats":
            raise ValueError("a supernet's bodies are held as floats; legal: hold: floats")
        if self.rebase and self.scale != "largest" and len(self.ranks) > 1:
            raise ValueError("rebase makes prefixes the best parts of what all ranks add, and scale: rank "
                             "gives each rank another scale; legal: scale: largest, or rebase: 0")
        if self.mixtures and self.mode == "own":
            raise ValueError("mixtures are a supernet's; legal: mode: supernet, or mixtures: 0")
        if self.mixtures and not self.shared:
            raise ValueError("of a mixture of bit-widths, what is outside the body has none of its own; "
                             "legal: shared: true, or mixtures: 0")
        return self
