"""One searched setting: a choice, a range of whole numbers, or a linear or logarithmic range of numbers."""

from __future__ import annotations

import builtins
import math
from typing import Any, Literal

from pydantic import ConfigDict, Field, JsonValue, model_validator

from spaces.config import Settings
from spaces.values import key, show

Kind = Literal["choice", "int", "float", "log"]


class Dimension(Settings):
    """`{choice: [...]}`, `{int: [lo, hi], step: 1}`, `{float: [lo, hi]}` or `{log: [lo, hi]}`, each
    optionally with `when: {other.path: [values]}`: the dimension exists only where the other dimension has
    one of those values."""

    model_config = ConfigDict(populate_by_name=True)

    choice: tuple[JsonValue, ...] | None = Field(None, description="the values to pick from")
    int_range: tuple[builtins.int, builtins.int] | None = Field(
        None, alias="int", description="lowest and highest whole number, both included"
    )
    float_range: tuple[builtins.float, builtins.float] | None = Field(
        None, alias="float", description="lowest and highest number, picked evenly"
    )
    log: tuple[builtins.float, builtins.float] | None = Field(
        None, description="lowest and highest number, picked evenly on a logarithmic scale"
    )
    step: builtins.int | None = Field(None, ge=1, description="distance between the whole numbers of `int`")
    when: dict[str, tuple[JsonValue, ...]] = Field(
        {}, description="searched only where each named dimension has one of the listed values"
    )

    @model_validator(mode="after")
    def _one_form(self) -> Dimension:
        given = [name for name, value in self._forms().items() if value is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"needs exactly one of choice, int, float, log; {found} given")
        getattr(self, f"_check_{given[0]}")()
        if self.step is not None and given[0] != "int":
            raise ValueError(f"step goes with int only, not with {given[0]}")
        for path, values in self.when.items():
            if not values:
                raise ValueError(f"when.{path} lists no value, so the dimension could never be searched")
        return self

    def _forms(self) -> dict[Kind, Any]:
        return {"choice": self.choice, "int": self.int_range, "float": self.float_range, "log": self.log}

    def _check_choice(self) -> None:
        if not self.choice:
            raise ValueError("choice is empty; give at least one value")
        seen = set()
        for value in self.choice:
            if key(value) in seen:
                raise ValueError(f"choice holds {show(value)} twice")
            seen.add(key(value))

    def _check_int(self) -> None:
        low, high = self._range()
        if low > high:
            raise ValueError(f"int [{low}, {high}] runs backwards; write [{high}, {low}]")
        rest = (high - low) % (self.step or 1)
        if rest:
            raise ValueError(f"{high} is not reached from {low} in steps of {self.step}; write {high - rest}")

    def _check_float(self) -> None:
        low, high = self._range()
        if not low < high:
            raise ValueError(f"float [{low}, {high}] needs the lower number first and a higher one after it")

    def _check_log(self) -> None:
        low, high = self._range()
        if not 0 < low < high:
            raise ValueError(f"log [{low}, {high}] needs 0 < lowest < highest")

    @property
    def kind(self) -> Kind:
        """Which of the four forms this is."""
        if self.choice is not None:
            return "choice"
        if self.int_range is not None:
            return "int"
        return "float" if self.float_range is not None else "log"

    @property
    def low(self) -> float:
        """Lower end of a range. Only for int, float and log."""
        return self._range()[0]

    @property
    def high(self) -> float:
        """Upper end of a range, included. Only for int, float and log."""
        return self._range()[1]

    def _range(self) -> tuple[float, float]:
        found = self.int_range or self.float_range or self.log
        assert found is not None, "a choice has no ends"
        return found

    @property
    def finite(self) -> bool:
        """True for choice and int."""
        return self.kind in ("choice", "int")

    @property
    def count(self) -> int | None:
        """Number of values; None for float and log."""
        return len(self.values()) if self.finite else None

    def values(self) -> tuple[Any, ...] | range:
        """Every value of a finite dimension, in order; the two ends of a continuous one."""
        if self.choice is not None:
            return self.choice
        if self.int_range is not None:
            return range(self.int_range[0], self.int_range[1] + 1, self.step or 1)
        return (self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Whether the dimension can take `value`."""
        if self.kind == "choice":
            return key(value) in {key(item) for item in self.values()}
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        if self.kind == "int":
            return float(value).is_integer() and int(value) in self.values()
        return self.low <= value <= self.high

    def canonical(self, value: Any) -> Any:
        """A value that `contains` accepts, in plain types: what a space file would hold (no 8.0
        for 8, no numpy)."""
        if self.kind == "choice":
            return next(item for item in self.values() if key(item) == key(value))
        return int(value) if self.kind == "int" else float(value)

    def describe(self) -> str:
        """The legal values on one line."""
        if self.kind == "choice":
            return show(list(self.values()), 120)
        step = f" in steps of {self.step}" if self.step not in (None, 1) else ""
        return f"{self.low} to {self.high}{step}" + (" (log scale)" if self.kind == "log" else "")

    def form(self) -> dict[str, Any]:
        """As it stands in a space file."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
