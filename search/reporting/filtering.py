"""Conditions on the rows of a table, as people write them: `state=failed`, `size_bytes <= 200kB`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spaces.errors import UserError
from spaces.objectives import Constraint
from spaces.values import did_you_mean

Row = Mapping[str, Any]
ORDERS: dict[str, Callable[[Any, Any], bool]] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt,
                                                ">": operator.gt}
OPERATORS = ("<=", ">=", "!=", "=", "<", ">")


@dataclass(frozen=True)
class Condition:
    """One column against one value."""

    column: str
    op: str
    value: str

    @classmethod
    def parse(cls, text: str, columns: Sequence[str]) -> Condition:
        """From `COLUMN OP VALUE`; a setting may be told by the end of its path. Raises `UserError`."""
        match = re.fullmatch(r"\s*([\w.]+)\s*(<=|>=|!=|==?|<|>)\s*(.+?)\s*", text)
        if match is None:
            raise UserError(f"--where {text!r}: is not COLUMN {'|'.join(OPERATORS)} VALUE, such as "
                            "state=failed")
        condition = cls(column(match[1], columns, f"--where {text!r}"), match[2].replace("==", "="), match[3])
        if condition.op in ORDERS:
            condition.number(f"--where {text!r}")
        return condition

    def number(self, label: str = "") -> float:
        """The value as a number, its unit (`200kB`) counted in. Raises `UserError`, which `label` begins."""
        leaf = self.column.rpartition(".")[2]
        try:
            return float(self.value)
        except ValueError:
            pass
        try:
            return Constraint.parse(f"{leaf} <= {self.value}").bound
        except ValueError as error:
            raise UserError(f"{label}: {self.value!r} is not a number of {self.column} ({error})") from None

    def holds(self, row: Row) -> bool:
        """Whether a row keeps to it; one without the value keeps to no order, and differs from all."""
        found = row.get(self.column)
        if self.op in ORDERS:
            number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
            return bool(number) and ORDERS[self.op](found, self.number())
        return self._equal(found) == (self.op == "=")

    def _equal(self, found: Any) -> bool:
        if isinstance(found, Mapping):
            found = found.get("name")
        if found is None or isinstance(found, bool):
            return self.value.lower() == ("none" if found is None else str(found).lower())
        if isinstance(found, int | float):
            try:
                return math.isclose(found, self.number("--where"), rel_tol=1e-9)
            except UserError:
                return False
        return str(found) == self.value


def column(name: str, columns: Sequence[str], label: str) -> str:
    """The column that is meant: by its name, or a setting by the end of its path. Raises `UserError`."""
    if name in columns:
        return name
    ends = [known for known in columns if known.endswith(f".{name}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UserError(f"{label}: {name} is the end of {' and '.join(ends)}; give more of it")
    shown = [known.removeprefix("config.") for known in columns]
    raise UserError(f"{label}: no column {name!r}{did_you_mean(name, shown)}; legal: {', '.join(shown)}")


def ordered(rows: Iterable[Any], key: Callable[[Any], Any], falling: bool = False) -> list[Any]:
    """Rows by a value, those without one last whichever way."""
    known = [(key(row), row) for row in rows]
    there = [pair for pair in known if not _missing(pair[0])]
    there.sort(key=lambda pair: _rank(pair[0]), reverse=falling)
    return [row for _, row in there] + [row for value, row in known if _missing(value)]


def _missing(value: Any) -> bool:
    return value is None or isinstance(value, float) and math.isnan(value)


def _rank(value: Any) -> tuple[int, Any]:
    """Numbers before words."""
    if isinstance(value, int | float):
        return 0, value
    return 1, str(value.get("name")) if isinstance(value, Mapping) else str(value)
