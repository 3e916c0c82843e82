"""A model as tensors for disk and back: by name, how each was packed, and how large they are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import torch
from safetensors.torch import save
from torch import Tensor, nn

from spaces.config import SITES, PluginRef, Site
from trainable.models.backbone import Backbone
from trainable.models.lora import ADAPTER, magnitude_of, merged
from trainable.models.parts import plain_name
from trainable.quantization.frozen import frozen_linears
from trainable.quantization.post_training.stored import KEY, restored
from trainable.quantization.sites import quantized_state, site_weights
from trainable.quantizers.base import Quantizer
from trainable.registry import BODIES, QUANTIZERS

SPLIT = "::"


@torch.no_grad()
def packed_tensors(model: Backbone,
                   body: PluginRef | None = None) -> tuple[dict[str, Tensor], dict[str, dict]]:
    """What goes to disk: tensors by name, and `{weight name: {quantizer or body, shape}}`
    for the packed ones.

    An adapter on a float weight is merged into it. On a packed weight it stays apart (`NAME::lora_a`,
    `NAME::lora_b`, scale folded into b, and DoRA's magnitudes, `NAME::lora_m`), since merging would need
    the sum to be quantized again. One that differs between intervals of the noise level stays apart from a
    float weight too, whose bytes are then its codes; how many there are is said as `intervals`. `body` is
    the format that the merged weights of attention and ffn are then rounded to.
    """
    tensors: dict[str, Tensor] = {}
    packing: dict[str, dict] = {}
    quantized = quantized_state(model)
    for name, weight in quantized.items():
        plain = _plain(f"{name}.weight")
        packing[plain] = _entry(weight.quantizer, weight.master.shape)
        for part, value in weight.encode().items():
            tensors[plain + SPLIT + part] = value
    for name, layer in frozen_linears(model).items():
        plain = _plain(f"{name}.weight")
        packing[plain] = _entry(layer.quantizer, layer.shape)
        tensors |= {plain + SPLIT + part: value for part, value in layer.packed.items()}
    for name, value in model.state_dict().items():
        if "lora_" in name or ".parametrizations." in name:
            continue
        tensors[_plain(name)] = value.detach()
    for name, factors in _adapters(model).items():
        if factors["a"].ndim == 3:
            if name not in packing:
                floats, values = QUANTIZERS.build(PluginRef(name="none")), tensors.pop(name).float()
                packing[name] = _entry(floats, values.shape)
                tensors |= {name + SPLIT + part: value for part, value in floats.encode(values).items()}
            packing[name]["intervals"] = len(factors["a"])
        if name in packing:
            tensors |= {f"{name}{SPLIT}lora_{part}": value for part, value in factors.items()}
        else:
            tensors[name] = merged(tensors[name].float(), *factors.values()).to(tensors[name].dtype)
    if body is not None and body.name != "float32":
        form = BODIES.build(body)
        for name in site_names(model, "attention", "ffn"):
            plain_weight = tensors.pop(name)
            packing[name] = {"body": {"name": form.name, **form.params.model_dump()},
                             "shape": list(plain_weight.shape)}
            tensors |= {name + SPLIT + part: value for part, value in form.encode(plain_weight).items()}
    if model.stored != torch.float32:
        tensors = {name: value if SPLIT in name else value.to(model.stored)
                   for name, value in tensors.items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, packing


def _entry(quantizer: Quantizer, shape: Sequence[int]) -> dict:
    return {"quantizer": {"name": quantizer.name, **quantizer.params.model_dump()}, "shape": list(shape)}


def _plain(name: str) -> str:
    """The weight's name in a model without adapters."""
    return name.replace(".base_layer", "")


def _adapters(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Low-rank factors by weight name: a [r, in] and b [out, r] with their scale folded into b, [K, ...] of
    adapters that differ between K intervals of the noise level; m [out] where there are magnitudes."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and ADAPTER in module.lora_A:
            a, b, m = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight, magnitude_of(module)
            found[f"{name}.weight"] = {"a": a.float(), "b": b.float() * module.scaling[ADAPTER],
                                       **({} if m is None else {"m": m.float()})}
    return found


def site_names(model: Backbone, *sites: Site) -> list[str]:
    """Names in the artifact of every weight of some sites."""
    return [_plain(plain_name(name) + ".weight") for site in sites for name, _ in site_weights(model, site)]


def file_bytes(tensors: dict[str, Tensor]) -> int:
    """Bytes of the safetensors file of these tensors: the library's own header over empty ones,
    with the true shapes and offsets put in. Nothing is copied, so that it costs little at every rung
    of a large model."""
    empty = save({name: value.new_empty(0) for name, value in tensors.items()})
    header = json.loads(empty[8:8 + int.from_bytes(empty[:8], "little")])
    end = 0
    for name, entry in header.items():
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        entry.update(shape=list(tensors[name].shape), data_offsets=[begin, end])
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def bytes_and_values(tensors: dict[str, Tensor], packing: dict[str, dict],
                     names: set[str] | None) -> tuple[int, int]:
    """Stored bytes, and values of the float model that they stand for, of the named weights (None
    = all tensors)."""
    chosen = {key: value
              for key, value in tensors.items() if names is None or key.partition(SPLIT)[0] in names}
    plain = sum(value.numel() for key, value in chosen.items() if SPLIT not in key)
    packed = sum(math.prod(entry["shape"])
                 for name, entry in packing.items() if names is None or name in names)
    return sum(value.numel() * value.element_size() for value in chosen.values()), plain + packed


def weight_facts(model: Backbone, tensors: dict[str, Tensor], packing: dict[str, dict]) -> dict[str, float]:
    """`packed_bytes` of all tensors, `bits_per_weight` over all deployed values, `bits_per_weight_SITE` over
    the weights of each site."""
    total, values = bytes_and_values(tensors, packing, None)
    found: dict[str, float] = {"packed_bytes": total, "bits_per_weight": 8 * total / values}
    for site in SITES:
        stored, values = bytes_and_values(tensors, packing, set(site_names(model, site)))
        if values:
            found[f"bits_per_weight_{site}"] = 8 * stored / values
    return found


def parts_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The packed arrays of one weight by their own names."""
    return {key.removeprefix(name + SPLIT): value
            for key, value in tensors.items() if key.startswith(name + SPLIT)}


def decoded(tensors: dict[str, Tensor], packing: dict[str, dict]) -> dict[str, Tensor]:
    """Float state of a plain model from an artifact's tensors. Raises ValueError or KeyError where
    they do not fit."""
    state = {name: value for name, value in tensors.items() if SPLIT not in name}
    for name, entry in packing.items():
        parts, shape = parts_of(tensors, name), tuple(entry["shape"])
        if "body" in entry:
            state[name] = BODIES.build(PluginRef(**entry["body"])).decode(parts, shape)
            continue
        if KEY in entry:
            state[name] = restored(entry, parts, shape).effective
            continue
        weight = QUANTIZERS.build(PluginRef(**entry["quantizer"])).decode(parts, shape)
        if "lora_a" in parts:
            weight = merged(weight, parts["lora_a"], parts["lora_b"], parts.get("lora_m"))
        state[name] = weight
    return state
