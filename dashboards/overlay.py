"""Fronts of several runs over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.plot_axes import WIDE, label
from dashboards.style import STYLE

# Okabe and Ito's palette with a mark of its own for each color.
LOOKS = (("#D55E00", "D"), ("#0072B2", "o"), ("#009E73", "s"), ("#CC79A7", "^"), ("#E69F00", "v"),
         ("#56B4E9", "P"))


def draw_fronts(objectives: Sequence[Mapping[str, str]], fronts: Mapping[str, Sequence[Mapping[str, Any]]],
                out: Path) -> Path:
    """One panel per further objective over the first, the members of each run's front in its
    own color and mark.

    The format follows from the suffix of `out`. Raises ValueError for a suffix that matplotlib does not know.
    """
    first, *others = objectives
    others = others or [first]
    with matplotlib.rc_context({**STYLE, "text.parse_math": False}):
        figure = Figure(figsize=(4.4 * len(others) + 0.4, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(others), squeeze=False)[0]
        for panel, other in zip(panels, others, strict=True):
            for place, (name, rows) in enumerate(fronts.items()):
                color, mark = LOOKS[place % len(LOOKS)]
                points = sorted((row[other["metric"]], row[first["metric"]]) for row in rows)
                if points:
                    panel.scatter(*zip(*points, strict=True), color=color, marker=mark, s=44, alpha=0.8,
                                  label=name, edgecolors="white", linewidths=0.6)
            panel.set(xlabel=label(other), ylabel=label(first))
            for which, metric in (("x", other["metric"]), ("y", first["metric"])):
                values = [row[metric] for rows in fronts.values() for row in rows]
                if values and min(values) > 0 and max(values) / min(values) > WIDE:
                    getattr(panel, f"set_{which}scale")("log")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names) or 1),
                      frameon=False)
        figure.savefig(out, dpi=160)
    return out
