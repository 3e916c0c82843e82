"""Rows as a typed Arrow table: the one place that decides column order and column types."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from search.pareto.objectives import CONFIG

LEADING = ("trial", "rung", "state", "tag")
TYPES = {
    "trial": "int64", "rung": "int64", "state": "string",
    "tag": "string", "fidelity": "int64", "seconds": "double",
    "device": "string", "seed": "int64", "versions": "string", "reason": "string", "time": "double",
}


def column_types(dimensions: Mapping[str, Any]) -> dict[str, str]:
    """Arrow type by name of each `config.*` column, from the dimensions, so that it holds
    for rows yet to come.

    A choice among strings, whole numbers, numbers or booleans keeps that type; any other choice is JSON text.
    """
    kinds = {"int": "int64", "float": "double", "log": "double"}
    return {CONFIG + path: kinds.get(dimension.kind) or _type_of(dimension.values(), whole=True)
            for path, dimension in dimensions.items()}


def to_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None,
             first: Iterable[str] = ()) -> pa.Table:
    """One Arrow row per row. `columns` fixes types by name; the rest is told from the values.

    Measurements that are numbers are always double. Lists and dicts are JSON text. Order: trial, rung,
    state, tag, then `first`, then `config.*`, measurements, bookkeeping. `trial`, `first` and `columns` are
    there even without rows.
    """
    fixed = {**TYPES, **(columns or {})}
    present = dict.fromkeys(name for row in rows for name in row)
    names = dict.fromkeys([*(name for name in LEADING if name in present or name == "trial"), *first,
                           *(name for name in fixed if name.startswith(CONFIG)),
                           *(name for name in present if name.startswith(CONFIG)),
                           *(name for name in present if name not in TYPES), *present])
    arrays = {}
    for name in names:
        values = [row.get(name) for row in rows]
        wanted = fixed.get(name) or _type_of(values, whole=name.startswith(CONFIG))
        arrays[name] = pa.array([_cell(value, wanted) for value in values], type=pa.type_for_alias(wanted))
    return pa.table(arrays)


def _type_of(values: Iterable[Any], whole: bool) -> str:
    """Arrow type that holds all the values. Whole numbers become int64 only where `whole` is asked for."""
    kept = [value for value in values if value is not None]
    if not kept:
        return "string" if whole else "double"
    if all(isinstance(value, str) for value in kept):
        return "string"
    if all(isinstance(value, (bool, np.bool_)) for value in kept):
        return "bool"
    if any(isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number))
           for value in kept):
        return "string"
    return "int64" if whole and all(isinstance(value, (int, np.integer)) for value in kept) else "double"


def _cell(value: Any, wanted: str) -> Any:
    if value is None:
        return None
    if wanted == "string":
        return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return {"int64": int, "double": float, "bool": bool}[wanted](value)
