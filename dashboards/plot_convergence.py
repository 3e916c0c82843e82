"""Convergence curves: a metric over the training steps, a line for each arm, bands of 95 % over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.plot import STYLE

LABELED = 12
"""Lines that are named; the others are drawn thin and gray, so that a grid of hundreds of arms stays readable."""


def convergence_png(curves: Mapping[str, Sequence[tuple[int, float, float]]], label: str, out: Path,
                    dots_per_inch: int = 160) -> Path:
    """Draw `(steps, mean, half-width of the interval)` of every arm; returns `out`. The best at their ends are named."""
    drawn = {name: points for name, points in curves.items() if points}
    best = sorted(drawn, key=lambda name: drawn[name][-1][1])[:LABELED]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        colors = matplotlib.colormaps["tab20"]
        for name in sorted(drawn, key=lambda name: name in best):
            steps, means, halves = zip(*drawn[name], strict=True)
            if name not in best:
                axes.plot(steps, means, color="#CCCCCC", linewidth=0.8)
                continue
            color = colors(best.index(name))
            axes.plot(steps, means, marker="o", color=color, label=name)
            if not any(map(math.isnan, halves)):
                axes.fill_between(steps, [m - h for m, h in zip(means, halves, strict=True)],
                                  [m + h for m, h in zip(means, halves, strict=True)], color=color, alpha=0.12, linewidth=0)
        axes.set_xlabel("adaptation steps")
        axes.set_ylabel(label)
        if best:
            axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(out, dpi=dots_per_inch)
    return out
