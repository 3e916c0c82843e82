"""A post-trained Linear as an artifact holds it: arrays, the entry that says how to read them, a layer that
runs.

entry   {"post_training": {name, ..}, "transforms": [..], "maps": ["scale", ..], "activation_bits": 16,
"shape": [..]}
arrays  what the method stores, and `map0_scale`, .. of the input maps that have numbers of their own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spaces.config import CalibrationConfig, PluginRef
from spaces.errors import UserError
from trainable.quantization.post_training.activations import ActivationParams, ActivationQuantizer
from trainable.quantization.post_training.base import Encoded, PostTraining, Shape
from trainable.quantization.post_training.chain import Chain
from trainable.quantization.post_training.maps import ChannelScale, InputMap
from trainable.quantization.post_training.quantize import Quantized
from trainable.quantization.post_training.rotation import HadamardRotation
from trainable.quantization.post_training.statistics import SECOND_MOMENT
from trainable.registry import POST_TRAINING

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


def stored(calibration: CalibrationConfig, done: Quantized) -> Stored:
    """A quantized Linear -> what is written for it."""
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
        "activation_bits": calibration.activation_bits,
        "shape": list(done.weight.shape),
    }
    return Stored(entry, arrays)


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
            | {f"map{number}_input_scale": shape[1] for number in scales})


class RoundedLinear(nn.Module):
    """A Linear that rounds its inputs, each token by its own range, behind the maps that its weight was made
    for."""

    def __init__(self, done: Quantized, bits: int, bias: Tensor | None, device: torch.device | str = "cpu"):
        super().__init__()
        self.out_features, self.in_features = done.weight.shape
        self.weight = nn.Parameter(done.weight.to(device), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(device), requires_grad=False)
        self.maps = tuple(
            ChannelScale(each.scale.to(device)) if isinstance(each, ChannelScale) else each
            for each in done.maps
        )
        self.activations = ActivationQuantizer(ActivationParams.model_validate({"bits": bits}))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]. Gradients pass the rounding straight through."""
        for each in self.maps:
            x = each.inputs(x)
        rounded = self.activations.fake_quantize(x.detach())
        return nn.functional.linear(x + (rounded - x).detach(), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, inputs of {self.activations.params.bits} bits"


def put(model: nn.Module, name: str, done: Quantized, bits: int) -> None:
    """Replace Linear `name` by its quantized form: a new weight, or a layer that rounds its inputs too.

    The old weight is left as it was: others may share its memory.
    """
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    if bits == 16:
        linear.weight = nn.Parameter(done.effective.to(linear.weight.device), requires_grad=False)
    else:
        model.set_submodule(name, RoundedLinear(done, bits, linear.bias, linear.weight.device))
