"""The picture of `qdlm bench`: milliseconds a sentence over the batch, and the ratio below; a column for
each step count."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.style import STYLE

COLORS, RATIO = ("#0B6E99", "#C26A2D"), "#333333"
APART = 1.04
"""Factor between the places of the two sides at a batch, so that whiskers do not hide each other."""


def bench_png(found: Mapping[str, Any], out: Path, dots_per_inch: int = 160) -> Path:
    """Draw what `qdlm bench` found (the content of its JSON); returns `out`. Whiskers are 95
    % intervals of medians."""
    names = [name for name in (found["artifact"], found["against"]) if name]
    steps = sorted({cell["steps"] for cell in found["cells"]})
    pair = all("ratio" in cell for cell in found["cells"])
    threads = f"{found['threads']} thread{'' if found['threads'] == 1 else 's'}"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(6.0, 4.2 * len(steps)), 5.4 if pair else 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(1 + pair, len(steps), squeeze=False, sharex="col",
                               sharey="row" if pair else False, height_ratios=[2.4, 1][:1 + pair])
        for place, count in enumerate(steps):
            cells = [cell for cell in found["cells"] if cell["steps"] == count]
            _times(rows[0][place], cells, names)
            rows[0][place].set_title(f"{count} sampler steps", fontsize=12)
            if pair:
                _ratio(rows[1][place], cells)
            rows[-1][place].set_xlabel("batch")
        rows[0][0].set_ylabel("ms a sentence")
        if pair:
            rows[1][0].set_ylabel("ratio")
        rows[0][-1].legend(frameon=False, fontsize=10, loc="upper right")
        figure.suptitle(f"{found['processor']}, {threads}; median and 95 % interval", fontsize=9,
                        color="#777777")
        figure.savefig(out, dpi=dots_per_inch)
    return out


def _times(axes: Axes, cells: list[Mapping[str, Any]], names: list[str]) -> None:
    for which, name in enumerate(names):
        sides = [cell["sides"][which] for cell in cells]
        places = [cell["batch"] * APART ** (which if len(names) == 1 else 2 * which - 1) for cell in cells]
        _whiskers(axes, places, [side["p50"] for side in sides], [side["interval"] for side in sides],
                  COLORS[which], name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(matplotlib.ticker.LogFormatter(minor_thresholds=(1, 0.5)))
    _batches(axes, cells)


def _ratio(axes: Axes, cells: list[Mapping[str, Any]]) -> None:
    """Time of the artifact over that of what it is compared with, taken in turns: holds on a busy machine."""
    _whiskers(axes, [cell["batch"] for cell in cells], [cell["ratio"] for cell in cells],
              [cell["ratio_interval"] for cell in cells], RATIO, None)
    axes.axhline(1.0, color="#999999", linewidth=1.0, linestyle=(0, (4, 3)))
    axes.set_ylim(bottom=0)
    for cell in cells:
        axes.annotate(f"{cell['ratio']:.2f}", (cell["batch"], cell["ratio"]), (7, 5),
                      textcoords="offset points", fontsize=9)
    _batches(axes, cells)


def _whiskers(axes: Axes, places: list[float], middle: list[float], intervals: list[list[float]], color: str,
              name: str | None) -> None:
    below = [max(0.0, value - low) for value, (low, _) in zip(middle, intervals, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(middle, intervals, strict=True)]
    axes.errorbar(places, middle, [below, above], color=color, marker="o", markersize=5, capsize=3,
                  label=name)


def _batches(axes: Axes, cells: list[Mapping[str, Any]]) -> None:
    batches = [cell["batch"] for cell in cells]
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_xlim(min(batches) / 1.3, max(batches) * 1.45)
