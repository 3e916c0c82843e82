"""Convergence curves: a metric over the training steps, a line for each arm, bands of 95 % over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.style import STYLE

LABELED = 12
"""Lines that are named; the others are drawn thin and gray, so that a grid of hundreds of arms
stays readable."""

BANDS, FAR = 6, 3.0
"""Most lines that get a band; largest value over smallest from which on the scale is logarithmic."""


def convergence_png(curves: Mapping[str, Sequence[tuple[int, float, float]]], label: str, out: Path,
                    dots_per_inch: int = 160) -> Path:
    """Draw `(steps, mean, half-width of the interval)` of every arm; returns `out`. The best at their
    ends are named."""
    drawn = {name: points for name, points in curves.items() if points}
    best = sorted(drawn, key=lambda name: drawn[name][-1][1])[:LABELED]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        colors = matplotlib.colormaps["tab20"]
        # the best on top, in order
        for name in sorted(drawn, key=lambda name: best.index(name) if name in best else -1):
            steps, means, halves = zip(*drawn[name], strict=True)
            if name not in best:
                axes.plot(steps, means, color="#CCCCCC", linewidth=0.8)
                continue
            color = colors(best.index(name))
            axes.plot(steps, means, marker="o", markersize=4, color=color, label=f"{name}  {means[-1]:.3g}")
            if not any(map(math.isnan, halves)) and len(best) <= BANDS:
                axes.fill_between(steps, [m - h for m, h in zip(means, halves, strict=True)],
                                  [m + h for m, h in zip(means, halves, strict=True)], color=color,
                                  alpha=0.12, linewidth=0)
        ends = [value for points in drawn.values() for _, value, _ in points]
        if ends and min(ends) > 0 and max(ends) > FAR * min(ends):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(matplotlib.ticker.LogFormatter(minor_thresholds=(2, 0.5)))
        axes.set_xlabel("adaptation steps")
        axes.set_ylabel(label)
        if best:
            axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5),
                        title="best at the end", title_fontsize=10, alignment="left")
        figure.savefig(out, dpi=dots_per_inch)
    return out
