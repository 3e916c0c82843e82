"""Which member of its supernet a trial is, and whether a supernet can have it."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from spaces.config import MIXED, PluginRef, TrialConfig
from spaces.errors import UserError
from trainable.adapters.supernet import Member, members, mixture
from trainable.models.lora import target_pattern
from trainable.registry import BACKBONES, PROCESSES, QUANTIZERS


def member_of(config: TrialConfig) -> Member:
    """Which member of its supernet a trial is. Raises `UserError` where it is none."""
    check_bits(config)
    bits = _bits(config, config.quantization.quantizer, "quantizer")
    if not config.adapt.mixtures:
        return Member(config.lora.rank, bits)
    shared = family(config.quantization.quantizer)
    widths: dict[str, int] = {}
    for site in MIXED:
        ref, where = config.quantization.at(site), f"per_site.{site}"
        own = family(ref)
        if differing := [name for name, value in shared.items() if own.get(name) != value]:
            raise UserError(f"quantization.{where}: {differing[0]}={own.get(differing[0])}, and "
                            f"quantization.quantizer has {shared[differing[0]]}; legal in a supernet with "
                            "mixtures: the same quantizer but for its bits")
        widths[site] = _bits(config, ref, where)
    return mixture(config.lora.rank, widths)


def family(ref: PluginRef) -> dict[str, Any]:
    """A quantizer with all its parameters but its bits."""
    whole = QUANTIZERS.completed(ref).model_dump(mode="json")
    return {name: value for name, value in whole.items() if name != "bits"}


def _bits(config: TrialConfig, ref: PluginRef, where: str) -> int:
    bits = getattr(QUANTIZERS.params(ref), "bits", None)
    if not isinstance(bits, int) or bits not in config.adapt.bits:
        raise UserError(f"quantization.{where}.bits={bits} is not among the supernet's; "
                        f"legal: {', '.join(map(str, config.adapt.bits))} (adapt.bits)")
    return bits


def check_bits(config: TrialConfig) -> None:
    """Raises `UserError`, one line, for a family of quantizers that has not all that `adapt.bits` names."""
    ref = config.quantization.quantizer
    if "bits" not in QUANTIZERS.get(ref.name).Params.model_fields:
        legal = [name for name in QUANTIZERS if "bits" in QUANTIZERS.get(name).Params.model_fields]
        raise UserError(f"adapt.bits: quantizer {ref.name} has no bits; legal: {', '.join(legal)}")
    for width in config.adapt.bits:
        try:
            QUANTIZERS.build(ref.model_copy(update={"bits": width}))
        except UserError as error:
            raise UserError(f"adapt.bits: {width}: {error}") from None


def scale_of(config: TrialConfig, rank: int) -> float:
    """What the product of a prefix of this rank is multiplied by."""
    return config.lora.alpha / (rank if config.adapt.scale == "rank" else max(config.adapt.ranks))


def as_member(config: TrialConfig, member: Member) -> TrialConfig:
    """The trial that is this member of the same supernet."""
    changed = config.model_dump(mode="json")
    changed["lora"]["rank"] = member.rank
    quantization = changed["quantization"]
    quantization["quantizer"]["bits"] = member.bits
    if config.adapt.mixtures:
        quantization["sites"] = [*dict.fromkeys([*quantization["sites"], *MIXED])]
        fixed = {site: ref for site, ref in quantization["per_site"].items() if site not in MIXED}
        quantization["per_site"] = fixed | {site: {**quantization["quantizer"], "bits": bits}
                                            for site, bits in member.others}
    return TrialConfig.model_validate(changed)


def members_of(config: TrialConfig) -> list[TrialConfig]:
    """Every member of a trial's supernet, as the trial that it is, narrowest first."""
    return [as_member(config, member)
            for member in members(config.adapt.ranks, config.adapt.bits, config.adapt.mixtures > 0)]


def check_ranks(config: TrialConfig) -> None:
    """Raises `UserError`, one line, where `adapt.ranks` has one above the smaller dimension of a layer that
    the adapter sits on. Shapes alone are looked at: no weight is made."""
    params = BACKBONES.params(config.model)
    with torch.device("meta"):
        model = BACKBONES.get(config.model.name).from_config(
            params, PROCESSES.params(config.diffusion), ("START", "END", "UNK", "PAD"), pretrained=False)
    pattern, largest = re.compile(target_pattern(model, config.lora)), max(config.adapt.ranks)
    for name, module in model.body.named_modules():
        if isinstance(module, nn.Linear) and pattern.fullmatch(name):
            most = min(module.in_features, module.out_features)
            if largest > most:
                raise UserError(f"adapt.ranks: {largest} is above the smaller dimension of body.{name}; "
                                f"legal: at most {most}")


