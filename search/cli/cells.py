"""What layouts of `qdlm table` with cells over repeats share: which metric, and how it is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from spaces.errors import UserError


def cell(metric: str, mean: float, half: float) -> str:
    """`0.0123 ± 0.0011`; no interval with one repeat."""
    from search.cli.format import figure, ranged

    return ranged(metric, mean, half) if math.isfinite(half) else figure(metric, mean)


def counted(found: Counter[str]) -> str:
    """`W8A16 (3 trials), W3A4 (1 trial)`."""
    return ", ".join(f"{name} ({count} trial{'s' * (count > 1)})" for name, count in sorted(found.items()))


def known(row: Mapping[str, Any], metric: str) -> bool:
    """Whether the row has a finite number of it."""
    value = row.get(metric)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def measured_metric(rows: Sequence[Mapping[str, Any]], asked: str | None, usual: Sequence[str]) -> str:
    """The metric of the cells: what is asked for, else the first of the usual ones. Raises `UserError` where
    no finished trial has it."""
    for metric in (asked,) if asked else usual:
        if any(known(row, metric) for row in rows):
            return metric
    if not rows:
        raise UserError("table: no trial has finished yet, so there is nothing to compare")
    raise UserError(f"table: no finished trial has measured {asked or ' or '.join(usual)}; "
                    f"legal: {', '.join(numbers(rows)) or 'nothing'}")


def numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the rows have measured."""
    from search.pareto.objectives import measurements

    return sorted({name for row in rows for name in measurements(row) if known(row, name)})


def stopped_note(count: int, why: str) -> tuple[str, ...]:
    """A line on trials that are in no cell."""
    return (f"trials that were stopped early and left out: {count}; {why}",) if count else ()


def part_name(ref: Any, registry: Any, without: frozenset[str] = frozenset()) -> str:
    """A plug-in with what differs from its defaults: `gptq`, or `gptq(group=16)`; `without` are parameters
    that stand elsewhere."""
    from search.cli.format import compact

    params = registry.params(ref).model_dump(mode="json", exclude_defaults=True, exclude=set(without))
    return compact({"name": ref.name, **params})
