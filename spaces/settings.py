"""What groups of settings are made of: their base, plug-ins by name, and one training run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_SHORT_FORMS = {r"Q(\d+)i(\d+)f": ("int_bits", "frac_bits"), r"E(\d+)M(\d+)": ("exp_bits", "man_bits"),
                r"(\d+)": ("bits",)}
Beta = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of every settings group: immutable, and a key that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginRef(BaseModel):
    """A plug-in by name, with its own parameters beside the name: `{name: fixed, int_bits: 0, frac_bits: 8}`.

    Short forms are accepted: `binary`; `fixed:Q0i8f` for formats of integer and fraction bits, `float:E2M1`
    for those of exponent and mantissa bits, `uniform:4` for those of so many bits.
    The parameters are checked against the plug-in's `Params` by `trainable.registry`, not here.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, BaseModel) and not isinstance(value, PluginRef):  # a plug-in's own parameters
            return {**value.model_dump(mode="json"),
                    **({"name": value.name} if hasattr(value, "name") else {})}
        if not isinstance(value, str):
            return value
        name, _, form = value.partition(":")
        if not form:
            return {"name": name}
        for pattern, keys in _SHORT_FORMS.items():
            match = re.fullmatch(pattern, form)
            if match is not None:
                return {"name": name,
                        **{key: int(digits) for key, digits in zip(keys, match.groups(), strict=True)}}
        raise ValueError(f"{value!r} is not NAME or NAME:Q<int>i<frac>f, such as fixed:Q0i8f, "
                         "or NAME:E<exp>M<man>, such as float:E2M1, or NAME:<bits>, such as uniform:4")

    @property
    def params(self) -> dict[str, Any]:
        """The plug-in's own parameters."""
        return dict(self.__pydantic_extra__ or {})


class OptimConfig(Settings):
    """One training run."""

    name: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: AdamW but for matrices of projections, attention and ffn, whose steps "
                             "are orthogonalized; a base takes fewer of them")
    steps: int = Field(1000, ge=1, description="optimizer steps")
    batch_size: int = Field(64, ge=1, description="sentences per optimizer step, over all workers")
    lr: float = Field(1e-4, gt=0, description="highest learning rate")
    warmup: int = Field(50, ge=0, description="steps of linear growth to lr, before the linear fall")
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.98), description="0 to below 1: memory of the gradient (Muon's momentum), and of its square")
    weight_decay: float = Field(
        0.0, ge=0, description="decoupled, as in AdamW; not of vectors and of what quantizers learn")
    clip: float = Field(1.0, ge=0, description="gradient norm clip; 0 = off")
    ema: float = Field(0.0, ge=0, lt=1,
                       description="decay of the averaged weights used for measuring; 0 = off")
    ema_warmup: bool = Field(True, description="the decay begins low and grows as (1 + step) / (10 + step); "
                                               "false: ema from the first step, as in Diffusion-LM")
    states: Literal["float32", "int8"] = Field(
        "float32", description="adamw's moments; int8: 2 bytes a value of matrices instead of 8, and slower")
    padding: Literal["full", "batch", "pairs"] = Field(
        "full", description="full: training texts have corpus.max_length positions; batch: as many as the "
                            "longest of its batch needs, in steps of 4, and less is computed; "
                            "pairs: so too, and of each two batches one has shorter texts, one longer ones")
    final_lr: float = Field(0.02, ge=0, le=1, description="learning rate at the last step, as a share of lr")

    @model_validator(mode="after")
    def _moments(self) -> OptimConfig:
        if self.name == "muon" and self.states != "float32":
            raise ValueError(f"states {self.states} is adamw's; muon has float32")
        return self


def of_teacher(optim: OptimConfig) -> OptimConfig:
    """A teacher's settings. Raises ValueError for a choice that it does not have."""
    if optim.name != "adamw":
        raise ValueError(f"name {optim.name} is for bases and trials; a teacher has adamw")
    if optim.padding != "full":
        raise ValueError(f"padding {optim.padding} is for bases and trials; a teacher never trains on what "
                         "is behind a text: leave it out")
    return optim
