"""What each part of a base loses per choice of its bits, as the run measured it for its first points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def sensitivity(events: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of the last table of a run: `bits` in rising order, and for each part its KL and stored bytes at each
    of them (None where it may not have them) and the KL saved per bit, most sensitive first. None without
    one."""
    tables = [event for event in events if event.get("event") == "prepare" and _is_table(event)]
    if not tables:
        return None
    costs, per_bit = tables[-1]["costs"], tables[-1].get("kl_per_bit", {})
    cells = {(str(cost["site"]), int(cost["choice"])): cost for cost in costs}
    bits = sorted({number for _, number in cells})

    def along(part: str, key: str) -> list[float | None]:
        return [_finite(cells[part, number][key]) if (part, number) in cells else None for number in bits]
    rows: list[dict[str, Any]] = [
        {"part": part, "kl_per_bit": _finite(per_bit.get(part)), "kl": along(part, "kl"),
         "bytes": along(part, "bytes")} for part in dict.fromkeys(part for part, _ in cells)]
    rows.sort(key=lambda row: -(row["kl_per_bit"] or 0.0))
    return {"bits": bits, "rows": rows}


def _is_table(event: Mapping[str, Any]) -> bool:
    costs, keys = event.get("costs"), {"site", "choice", "kl", "bytes"}
    return isinstance(costs, list) and all(isinstance(cost, Mapping) and keys <= set(cost) for cost in costs)


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value
