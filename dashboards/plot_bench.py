"""The picture of `qdlm bench`: milliseconds a sentence over the batch, a panel for each number of sampler steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.plot import STYLE

COLORS = ("#0B6E99", "#C26A2D")


def bench_png(found: Mapping[str, Any], out: Path, dots_per_inch: int = 160) -> Path:
    """Draw what `qdlm bench` found (the content of its JSON); returns `out`. Whiskers are 95 % intervals of medians."""
    names = [name for name in (found["artifact"], found["against"]) if name]
    steps = sorted({cell["steps"] for cell in found["cells"]})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(steps), 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        for place, count in enumerate(steps):
            axes = figure.add_subplot(1, len(steps), place + 1)
            _panel(axes, [cell for cell in found["cells"] if cell["steps"] == count], names)
            axes.set_title(f"{count} sampler steps", fontsize=12)
            if place == 0:
                axes.set_ylabel("ms a sentence")
                axes.legend(frameon=False, fontsize=10)
        figure.suptitle(f"{found['processor']}, {found['threads']} threads", fontsize=9, color="#777777")
        figure.savefig(out, dpi=dots_per_inch)
    return out


def _panel(axes: Any, cells: list[Mapping[str, Any]], names: list[str]) -> None:
    batches = [cell["batch"] for cell in cells]
    for which, name in enumerate(names):
        sides = [cell["sides"][which] for cell in cells]
        middle = [side["p50"] for side in sides]
        below = [max(0.0, side["p50"] - side["interval"][0]) for side in sides]
        above = [max(0.0, side["interval"][1] - side["p50"]) for side in sides]
        axes.errorbar(batches, middle, [below, above], color=COLORS[which], marker="o", capsize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch")
