"""Quantizers side by side: means over seeds with intervals, and differences to the unquantized arm.

An arm is everything that was searched but the seed. Intervals are Student's over seeds (95 %); differences
are taken within a seed, so that what the seeds have in common cancels out.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
METRICS = ("train_loss", "train_mse", "nll_bound", "perplexity", "controllability",
           "trainable_params", "size_bytes", "bits_per_weight", "latency_ms_ratio")
QUANTIZER, SEED = "config.quantization.quantizer", "config.seed"
_T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass
class Arm:
    """One choice of everything but the seed: its final row for each seed, and its rows at every rung."""

    name: str
    rest: str
    finals: dict[Any, Row] = field(default_factory=dict)
    curve: dict[int, list[Row]] = field(default_factory=dict)


def arms(rows: Iterable[Row]) -> list[Arm]:
    """The arms of a run's rows, in order of appearance."""
    found: dict[tuple[str, str], Arm] = {}
    for row in rows:
        if row.get("state") not in ("rung", "complete"):
            continue
        name = short(row.get(QUANTIZER, "none"))
        others = {key.removeprefix("config."): value for key, value in row.items()
                  if key.startswith("config.") and key not in (QUANTIZER, SEED) and value is not None}
        rest = ", ".join(f"{key.split('.')[-1]}={short(value)}" for key, value in sorted(others.items()))
        arm = found.setdefault((name, rest), Arm(name, rest))
        arm.curve.setdefault(int(row.get("steps", row.get("fidelity", 0)) or 0), []).append(row)
        if row["state"] == "complete":
            arm.finals[row.get(SEED, 0)] = row
    return list(found.values())


def short(value: Any) -> str:
    """A plug-in or a list as it would be typed in a space."""
    if isinstance(value, str) and value[:1] in "{[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, Mapping) and "name" in value:
        if set(value) == {"name", "int_bits", "frac_bits"}:
            return f"{value['name']}:Q{value['int_bits']}i{value['frac_bits']}f"
        rest = ", ".join(f"{key}={short(item)}" for key, item in value.items() if key != "name")
        return f"{value['name']}({rest})" if rest else str(value["name"])
    return "+".join(map(short, value)) if isinstance(value, list | tuple) else str(value)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval; NaN with one value."""
    n = len(values)
    if n < 2:
        return values[0], math.nan
    t = _T_975[n - 2] if n - 2 < len(_T_975) else 2.0
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(n)


def values_of(arm: Arm, metric: str) -> list[float]:
    """A metric of an arm over seeds, where it was measured."""
    found = [row.get(metric) for row in arm.finals.values()]
    return [float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)]


def differences(arm: Arm, plain: Arm, metric: str) -> list[float]:
    """What the arm has more of a metric than the unquantized arm with the same seed."""
    pairs = [(row.get(metric), plain.finals[seed].get(metric))
             for seed, row in arm.finals.items() if seed in plain.finals]
    return [a - b for a, b in pairs if isinstance(a, int | float) and isinstance(b, int | float)]


def unquantized(arm: Arm, among: Sequence[Arm]) -> Arm | None:
    """The arm without a quantizer that is otherwise the same; any such arm where places were searched too."""
    plain = [other for other in among if other.name == "none" and other.finals]
    return next((other for other in plain if other.rest == arm.rest), plain[0] if plain else None)


def table(found: Sequence[Arm], cell: Callable[[str, float, float], Any]) -> list[dict[str, Any]]:
    """A row for each arm with a finished trial. `cell(metric, mean, half)` writes a figure
    with its interval."""
    metrics = [metric for metric in METRICS if any(values_of(arm, metric) for arm in found)]
    rows = []
    for arm in sorted((arm for arm in found if arm.finals), key=lambda arm: arm.name != "none"):
        row: dict[str, Any] = {"quantizer": arm.name, "rest": arm.rest or None, "seeds": len(arm.finals)}
        for metric in metrics:
            values = values_of(arm, metric)
            row[metric] = cell(metric, *interval(values)) if values else None
        plain = unquantized(arm, found)
        apart = differences(arm, plain, "nll_bound") if plain else []
        row["nll_bound minus none"] = (cell("nll_bound", *interval(apart)) if apart and arm is not plain
                                       else None)
        rows.append(row)
    return rows
