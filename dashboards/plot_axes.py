"""Axes that people can read: units from a metric's name, a logarithmic scale where one is needed,
round ticks."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.ticker as ticks
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis

UNITS = {"_ms": "ms", "_bytes": "bytes", "_seconds": "s", "_params": "parameters", "_percent": "%"}
WIDE = 20.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""


def label(objective: Mapping[str, str]) -> str:
    """Name, unit and an arrow to the better side; turned with the text of a vertical axis,
    it points up or down."""
    metric = objective["metric"]
    unit = next((text for suffix, text in UNITS.items() if metric.endswith(suffix)), "")
    name = (metric.removesuffix(next((suffix for suffix in UNITS if metric.endswith(suffix)), ""))
            .replace("_", " "))
    if unit in ("bytes", "parameters"):  # the ticks carry the unit
        name, unit = f"{name} {unit}" if unit == "parameters" else name, ""
    better = {"minimize": "← better", "maximize": "better →"}.get(objective["direction"], "")
    return "   ".join(part for part in (f"{name} ({unit})" if unit else name, better) if part)


def dress(panel: Axes, across: dict[str, str], down: dict[str, str], points: pd.DataFrame) -> None:
    """Label the horizontal axis and fix scale, limits and ticks of both for `points` (a column per axis)."""
    panel.set_xlabel(label(across))
    for axis, item in ((panel.xaxis, across), (panel.yaxis, down)):
        values = points[item["metric"]].to_numpy(float)
        _scale(panel, axis, values)
        _ticks(axis, item["metric"])


def _scale(panel: Axes, axis: Axis, values: np.ndarray) -> None:
    which = "x" if axis is panel.xaxis else "y"
    if not len(values):
        return
    low, high = values.min(), values.max()
    logarithmic = low > 0 and high / low > WIDE
    if logarithmic:
        getattr(panel, f"set_{which}scale")("log")
        low, high = np.log10(low), np.log10(high)
    room = 0.08 * (high - low) if high > low else 0.1 * (abs(high) or 1.0)
    limits = np.array([low - room, high + room])
    getattr(panel, f"set_{which}lim")(*(10**limits if logarithmic else limits))


def _ticks(axis: Axis, metric: str) -> None:
    form = _form(metric)
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        few = high / low > 1e3
        axis.set_major_locator(ticks.LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
        axis.set_minor_locator(ticks.NullLocator())
    else:
        axis.set_major_locator(ticks.MaxNLocator(6, steps=(1, 2, 2.5, 5, 10), integer=metric == "trial"))
    axis.set_major_formatter(form)


def _form(metric: str) -> ticks.Formatter:
    if metric.endswith("_bytes"):
        return ticks.EngFormatter(unit="B", sep=" ")
    if metric.endswith("_params"):
        return ticks.EngFormatter(sep="")
    return ticks.FuncFormatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")
