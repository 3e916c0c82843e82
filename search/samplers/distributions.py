"""Space dimensions as Optuna distributions: what a categorical cannot hold (lists, mappings) is
carried by a label."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from spaces.dimensions import Dimension
from spaces.points import is_active, order
from spaces.values import key


@dataclass(frozen=True)
class Axis:
    """One dimension with its distribution and, for a choice, the label of each value
    (`key(value)` -> label)."""

    path: str
    dimension: Dimension
    distribution: BaseDistribution
    labels: Mapping[Any, Any]
    values: Mapping[Any, Any]

    @classmethod
    def of(cls, path: str, dimension: Dimension) -> Axis:
        """The axis of a dimension. Labels are the values themselves where these are all strings
        or all numbers."""
        if dimension.kind == "int":
            low, high = int(dimension.low), int(dimension.high)
            return cls(path, dimension, IntDistribution(low, high, step=dimension.step or 1), {}, {})
        if dimension.kind in ("float", "log"):
            log = dimension.kind == "log"
            return cls(path, dimension,
                       FloatDistribution(float(dimension.low), float(dimension.high), log=log), {}, {})
        choices = dimension.values()
        plain = all(isinstance(value, str) for value in choices) or all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in choices)
        labels = {key(value): value if plain else json.dumps(value, sort_keys=True) for value in choices}
        values = {labels[key(value)]: value for value in choices}
        return cls(path, dimension, CategoricalDistribution(tuple(labels.values())), labels, values)

    def encode(self, value: Any) -> Any:
        """What Optuna keeps for a legal `value`."""
        if self.dimension.kind == "choice":
            return self.labels[key(value)]
        return int(value) if self.dimension.kind == "int" else float(value)

    def decode(self, kept: Any) -> Any:
        """The value behind what Optuna keeps."""
        return self.values[kept] if self.values else kept

    def suggest(self, trial: Trial) -> Any:
        """Ask the trial for this axis and return the value."""
        spread = self.distribution
        if isinstance(spread, CategoricalDistribution):
            return self.values[trial.suggest_categorical(self.path, spread.choices)]
        if isinstance(spread, IntDistribution):
            return trial.suggest_int(self.path, spread.low, spread.high, step=spread.step)
        assert isinstance(spread, FloatDistribution)
        return trial.suggest_float(self.path, spread.low, spread.high, log=spread.log)


class Axes:
    """All axes of a space, each after those that its conditions name."""

    def __init__(self, dimensions: Mapping[str, Dimension]):
        self.axes = {path: Axis.of(path, dimensions[path]) for path in order(dimensions)}

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Values of the active dimensions, define-by-run."""
        point: dict[str, Any] = {}
        for path, axis in self.axes.items():
            if is_active(axis.dimension, point):
                point[path] = axis.suggest(trial)
        return point

    def encode(self, values: Mapping[str, Any], partial: bool = False) -> dict[str, Any]:
        """Optuna parameters of a point: the active dimensions only, in axis order.

        Raises `ValueError` naming the dimension that is unknown, out of range, or (unless `partial`) missing.
        """
        unknown = [path for path in values if path not in self.axes]
        if unknown:
            raise ValueError(f"{unknown[0]} is not searched; searched: {', '.join(self.axes)}")
        kept: dict[str, Any] = {}
        point: dict[str, Any] = {}
        for path, axis in self.axes.items():
            if not is_active(axis.dimension, point):
                continue
            if path not in values:
                if not partial:
                    raise ValueError(f"{path} has no value; legal: {axis.dimension.describe()}")
                continue
            if not axis.dimension.contains(values[path]):
                raise ValueError(f"{path} is {values[path]!r}; legal: {axis.dimension.describe()}")
            point[path] = values[path]
            kept[path] = axis.encode(values[path])
        return kept

    def whole(self, params: Mapping[str, Any]) -> bool:
        """Whether Optuna parameters hold every active dimension and no other."""
        point: dict[str, Any] = {}
        for path, axis in self.axes.items():
            if is_active(axis.dimension, point):
                if path not in params:
                    return False
                point[path] = axis.decode(params[path])
        return len(point) == len(params)

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The point behind Optuna parameters."""
        return {path: self.axes[path].decode(kept) for path, kept in params.items()}

    def distributions(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """The distributions that go with Optuna parameters."""
        return {path: self.axes[path].distribution for path in params}
