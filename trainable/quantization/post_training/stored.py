"""A post-trained Linear as an artifact holds it: arrays, and the entry that says how to read them.

entry   {"post_training": {name, ..}, "transforms": [..], "maps": ["scale", ..], "activation_bits": 16,
"shape": [..]}, and "running" where the layer does more (running.py)
arrays  what the method stores, `map0_scale`, .. of the input maps that have numbers of their own, and what
the layer does with them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spaces.config import CalibrationConfig, PluginRef
from spaces.errors import UserError
from trainable.quantization.post_training import running as runs
from trainable.quantization.post_training.base import Encoded, PostTraining, Shape
from trainable.quantization.post_training.chain import Chain
from trainable.quantization.post_training.maps import ChannelScale, InputMap
from trainable.quantization.post_training.quantize import Quantized
from trainable.quantization.post_training.rotation import HadamardRotation
from trainable.quantization.post_training.running import RoundedLinear, Running
from trainable.quantization.post_training.statistics import SECOND_MOMENT
from trainable.registry import POST_TRAINING

__all__ = ["KEY", "RoundedLinear", "Stored", "chain_of", "layout_of", "restored", "running_of", "stored"]

KEY = "post_training"
"""What marks an entry of a packing as one of these."""


class Stored(NamedTuple):
    """What is written for one weight."""

    entry: dict[str, Any]
    arrays: dict[str, Tensor]


def chain_of(method: PluginRef, transforms: Sequence[PluginRef]) -> Chain:
    """The transforms and the rounding of a trial. Raises `UserError` for what cannot stand where it
    stands."""
    built = [POST_TRAINING.build(PluginRef.model_validate(ref)) for ref in transforms]
    for each in built:
        if type(each).transform is PostTraining.transform:
            able = [
                name
                for name in POST_TRAINING
                if POST_TRAINING.get(name).transform is not PostTraining.transform
            ]
            raise UserError(
                f"calibration.transforms: {each.name} transforms nothing; legal: {', '.join(able)}"
            )
    rounding = POST_TRAINING.build(PluginRef.model_validate(method))
    rotated = False
    for each in (*built, rounding):
        if rotated and each.needs - {SECOND_MOMENT}:
            raise UserError(
                f"calibration: {each.name} needs statistics of channels, which a rotation before it mixes; "
                f"put rotation behind it"
            )
        rotated = rotated or isinstance(each, HadamardRotation)
    return Chain(built, rounding)


def stored(calibration: CalibrationConfig, done: Quantized, running: Running | None = None) -> Stored:
    """A quantized Linear -> what is written for it."""
    running = running or Running(calibration.activation_bits)
    arrays = {"codes": done.encoded.codes, **done.encoded.parameters}
    names = []
    for number, each in enumerate(done.maps):
        names.append("scale" if isinstance(each, ChannelScale) else "rotation")
        arrays |= {f"map{number}_{name}": value for name, value in each.arrays.items()}
    entry = {
        KEY: POST_TRAINING.completed(calibration.method).model_dump(mode="json"),
        "transforms": [
            POST_TRAINING.completed(ref).model_dump(mode="json") for ref in calibration.transforms
        ],
        "maps": names,
        "activation_bits": running.bits,
        "shape": list(done.weight.shape),
    }
    if (said := running.entry()) is not None:
        entry["running"] = said
    return Stored(entry, arrays | running.arrays())


def running_of(entry: Mapping[str, Any], arrays: Mapping[str, Tensor], shape: Shape) -> Running:
    """What the layer of a stored weight does. Raises ValueError, KeyError or TypeError where entry and arrays
    do not fit."""
    return runs.restored(entry, arrays, shape)


def restored(entry: Mapping[str, Any], arrays: Mapping[str, Tensor], shape: Shape) -> Quantized:
    """The reverse of `stored`. Raises ValueError or KeyError where entry, arrays and shape do not fit."""
    chain = chain_of(PluginRef(**entry[KEY]), [PluginRef(**ref) for ref in entry["transforms"]])
    rotations = iter(
        [each for each in (*chain.transforms, chain.rounding) if isinstance(each, HadamardRotation)]
    )
    maps: list[InputMap] = []
    for number, name in enumerate(entry["maps"]):
        if name == "scale":
            scale = arrays[f"map{number}_input_scale"]
            if tuple(scale.shape) != shape[1:] or scale.dtype != torch.float32:
                raise ValueError(
                    f"input scale: {scale.dtype} {tuple(scale.shape)}, expected float32 {shape[1:]}"
                )
            maps.append(ChannelScale(scale))
        elif name == "rotation":
            maps.append(next(rotations).rotation(shape[1]))
        else:
            raise ValueError(f"input map {name!r}; legal: scale, rotation")
    layout = chain.layout(shape)
    parameters = {name: arrays[name] for name in layout if name != "codes"}
    encoded = Encoded(arrays["codes"], parameters, {})
    chain.check(encoded, shape)
    return Quantized(encoded, tuple(maps), chain.decode(encoded, shape))


def layout_of(entry: Mapping[str, Any], shape: Shape) -> dict[str, int]:
    """Every array of a weight [out, in] of this entry, with its number of elements. Raises ValueError or
    KeyError where the entry is none."""
    if type(entry["activation_bits"]) is not int:
        raise ValueError(f"activation_bits {entry['activation_bits']!r}: not a whole number")
    chain = chain_of(PluginRef(**entry[KEY]), [PluginRef(**ref) for ref in entry["transforms"]])
    scales = [number for number, name in enumerate(entry["maps"]) if name == "scale"]
    return ({name: part.count for name, part in chain.layout(shape).items()}
            | {f"map{number}_input_scale": shape[1] for number in scales} | runs.layout_of(entry, shape))
