"""One Linear through a post-training method: transform, encode, decode."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from spaces.errors import UserError
from trainable.quantization.post_training.base import Encoded, PostTraining
from trainable.quantization.post_training.maps import InputMap
from trainable.quantization.post_training.statistics import Statistics
from trainable.quantizers.base import finite32


class Quantized(NamedTuple):
    """One Linear's weight, quantized."""

    encoded: Encoded
    maps: tuple[InputMap, ...]
    weight: Tensor
    """Decoded, float32 [out, in]: to multiply with inputs behind `maps`."""

    @property
    def bytes(self) -> int:
        """Size on disk, with what the maps need where no layer before takes them in."""
        stored = [array for each in self.maps for array in each.arrays.values()]
        return self.encoded.bytes + sum(array.numel() * array.element_size() for array in stored)

    @property
    def effective(self) -> Tensor:
        """The weight that acts alike on plain inputs: what a model computes where activations are not
        rounded."""
        weight = self.weight
        for each in reversed(self.maps):
            weight = each.undo(weight)
        return weight


def quantize(method: PostTraining, weight: Tensor, statistics: Statistics | None = None) -> Quantized:
    """Weight [out, in] -> its quantized form. Raises `UserError` where a need is not met, ValueError on a NaN
    weight."""
    out, width = weight.shape
    if statistics is not None and statistics.width != width:
        raise ValueError(f"statistics of {statistics.name} are {statistics.width} wide, the weight {width}")
    missing = sorted(method.needs - (statistics.needs if statistics else frozenset()))
    if missing:
        raise UserError(f"post-training method {method.name!r} needs statistics: {', '.join(missing)}")
    weight, maps = method.transform(finite32(weight), statistics)
    encoded = method.encode(weight, statistics.after(maps) if statistics else None)
    return Quantized(encoded, maps, method.decode(encoded, (out, width)))
