"""What a post-training method is: statistics -> transform -> encode, on plain tensors, one Linear at a time.

    weight, maps = method.transform(weight, statistics)  # new weight, and what is done to the layer's inputs
    encoded = method.encode(weight, statistics.after(maps))
    method.decode(encoded, weight.shape)                 # the float32 weight that is measured and shipped

quantize.py does the three in a row. Activations are rounded elsewhere (activations.py), behind the maps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from pydantic import BaseModel
from torch import Tensor

from trainable.quantization.post_training.maps import InputMap
from trainable.quantization.post_training.statistics import Statistics
from trainable.quantizers.base import IntegerGroups, Part, check_size
from trainable.registry import Params

Shape = tuple[int, int]


class Transformed(NamedTuple):
    """A weight that is easier to round, and the maps of the inputs, first to last, that make up for it."""

    weight: Tensor
    maps: tuple[InputMap, ...] = ()


class Encoded(NamedTuple):
    """Packed codes (uint8, 1-D), what decoding them takes (1-D arrays by name), and numbers worth
    reporting."""

    codes: Tensor
    parameters: dict[str, Tensor]
    report: dict[str, float]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(array.numel() * array.element_size() for array in (self.codes, *self.parameters.values()))


class PostTraining(ABC):
    """A method for weights [out, in]. A subclass has `name`, one sentence here, `Params` and the rest."""

    name: ClassVar[str]
    Params: ClassVar[type[Params]] = Params

    def __init__(self, params: BaseModel):
        self.params = params

    @classmethod
    def examples(cls) -> Sequence[BaseModel]:
        """Parameter sets that the contract tests run."""
        return [cls.Params()]

    @property
    def needs(self) -> frozenset[str]:
        """Kinds of statistics (statistics.py) without which it cannot work."""
        return frozenset()

    def transform(self, weight: Tensor, statistics: Statistics | None = None) -> Transformed:
        """Float weight [out, in] -> one that rounds better; by default itself."""
        return Transformed(weight.float())

    @abstractmethod
    def encode(self, weight: Tensor, statistics: Statistics | None = None) -> Encoded:
        """Finite float32 weight behind `transform`, statistics behind its maps -> the arrays of `layout`."""

    @abstractmethod
    def decode(self, encoded: Encoded, shape: Shape) -> Tensor:
        """`encode`'s output -> float32 [out, in], the same bits every time."""

    @abstractmethod
    def layout(self, shape: Shape) -> dict[str, Part]:
        """Every array that `encode` gives, `codes` first. Raises `UserError` where the width cannot be."""

    def integer_groups(self, encoded: Encoded, shape: Shape) -> IntegerGroups | None:
        """What `decode` gives, bit for bit, as whole numbers times scales, where it is that."""
        return None

    def check(self, encoded: Encoded, shape: Shape) -> None:
        """ValueError where the arrays do not fit the shape, as in a truncated file."""
        for name, part in self.layout(shape).items():
            array = encoded.codes if name == "codes" else encoded.parameters[name]
            if array.dtype != part.dtype:
                raise ValueError(f"{self.name} {name}: expected {part.dtype}, found {array.dtype}")
            check_size(array, part.count, f"{self.name} {name}, shape {shape}")
