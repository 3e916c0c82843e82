"""Methods in a row: transforms one after another, then one way of rounding. QuaRot with GPTQ is [rotation] +
gptq."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trainable.quantization.post_training.base import Encoded, PostTraining, Shape, Transformed
from trainable.quantization.post_training.grid import GridMethod, GridParams
from trainable.quantization.post_training.statistics import Statistics
from trainable.quantizers.base import IntegerGroups, Part


class Chain(PostTraining):
    """The transforms of some methods, first to last, and the codes of another."""

    name = "chain"

    def __init__(self, transforms: Sequence[PostTraining], rounding: PostTraining):
        super().__init__(rounding.params)
        self.rounding = rounding
        self.transforms = tuple(_on_grid_of(rounding, method) for method in transforms)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(method.needs for method in (*self.transforms, self.rounding)))

    def transform(self, weight: Tensor, statistics: Statistics | None = None) -> Transformed:
        done = Transformed(weight.float())
        for method in (*self.transforms, self.rounding):
            behind = statistics.after(done.maps) if statistics else None
            step = method.transform(done.weight, behind)
            done = Transformed(step.weight, done.maps + step.maps)
        return done

    def encode(self, weight: Tensor, statistics: Statistics | None = None) -> Encoded:
        return self.rounding.encode(weight, statistics)

    def decode(self, encoded: Encoded, shape: Shape) -> Tensor:
        return self.rounding.decode(encoded, shape)

    def integer_groups(self, encoded: Encoded, shape: Shape) -> IntegerGroups | None:
        return self.rounding.integer_groups(encoded, shape)

    def layout(self, shape: Shape) -> dict[str, Part]:
        return self.rounding.layout(shape)


def _on_grid_of(rounding: PostTraining, method: PostTraining) -> PostTraining:
    """The method with the grid (bits, groups, ..) of the rounding: a search for scales must try what will be
    done."""
    if not isinstance(method, GridMethod) or not isinstance(rounding, GridMethod):
        return method
    grid = {name: getattr(rounding.params, name) for name in GridParams.model_fields}
    return type(method)(method.params.model_copy(update=grid))
