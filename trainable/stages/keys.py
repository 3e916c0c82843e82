"""What a base depends on, without what it takes to train one."""

from __future__ import annotations

from typing import Any

from spaces.config import MIXED, OptimConfig, TrialConfig
from trainable.models.masked_lm.config import LATER, MaskedLMConfig
from trainable.registry import QUANTIZERS, completed


def base_settings(config: TrialConfig) -> dict[str, Any]:
    """The settings that decide, beside the corpus, what a base is; equal settings, one base.

    Raises `UserError` for a model or a process that is not legal. What caches did not name when they were
    first written is left out, so that they stay good: what models are told, and the first
    backbone and process.
    """
    groups = completed(config).model_dump(mode="json", include={"model", "diffusion", "base", "runtime"})
    if not groups["model"].get("conditions"):
        groups["model"].pop("conditions", None)
        groups["diffusion"].pop("condition_drop", None)
    for name in LATER:
        if groups["model"].get(name) == MaskedLMConfig.model_fields[name].default:
            groups["model"].pop(name, None)
    for group, first in (("model", "diffusion_lm"), ("diffusion", "gaussian")):
        if groups[group]["name"] == first:
            del groups[group]["name"]
    without_new_defaults(groups["base"]["optim"])
    return groups


def supernet_settings(config: TrialConfig) -> dict[str, Any]:
    """The settings that decide, beside the base, what a supernet is: equal settings, one supernet. Which of
    its members the trial is decides nothing.

    Raises `UserError` for a quantizer that is not legal.
    """
    groups = config.model_dump(mode="json", include={"quantization", "lora", "adapt", "seed"})
    quantizer = QUANTIZERS.completed(config.quantization.quantizer).model_dump(mode="json")
    quantization = groups["quantization"]
    quantization["quantizer"] = {key: value for key, value in quantizer.items() if key != "bits"}
    if config.adapt.mixtures:  # which sites have the quantizer is known, and their bits are the trial's
        quantization["sites"] = sorted({*quantization["sites"], *MIXED})
        quantization["per_site"] = {site: ref for site, ref in quantization["per_site"].items()
                                    if site not in MIXED}
    else:  # as it was before it was a setting: older caches stay good
        del groups["adapt"]["mixtures"]
    for name, before in (("shrink", 0), ("rebase", 0), ("slower", 0), ("schedule", "run")):
        if groups["adapt"][name] == before:  # all that there was: older caches stay good
            del groups["adapt"][name]
    for name in ("rank", "variant", "intervals"):  # the trial's, and those of which supernets have but one
        del groups["lora"][name]
    for name, before in (("name", "adamw"), ("states", "float32"), ("padding", "full")):
        if groups["adapt"]["optim"][name] == before:
            del groups["adapt"]["optim"][name]
    if config.lora.start.name != "zero":
        calibration = config.calibration.model_dump(mode="json", exclude={"offload"})
        groups["calibration"] = {**calibration, "seed": config.calibration_seed}
    return groups


def without_new_defaults(optim: dict[str, Any]) -> None:
    """As it was before they were a setting: older caches stay good."""
    new = {"name", "betas", "ema_warmup", "states", "padding"}
    for name, default in OptimConfig().model_dump(mode="json", include=new).items():
        if optim[name] == default:
            del optim[name]
