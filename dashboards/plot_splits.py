"""Maps of integer/fraction splits: what each costs, a panel for each family and place, equal bits
on the diagonals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from dashboards.style import STYLE

ACROSS, FRAME = 2, "#D55E00"
LINEAR, WORST = 0.02, 3.0
"""Nats a word up to which the colors are linear, and from which on they do not change."""


class Panel(Protocol):
    """`search.reporting.integer_fraction.Splits`."""

    @property
    def title(self) -> str:
        """Family and what else was chosen."""

    @property
    def rms(self) -> float:
        """RMS of the unquantized table; NaN where it is not known."""

    @property
    def costs(self) -> Mapping[tuple[int, int], Any]:
        """(integer bits, fraction bits) -> costs by seed."""

    def mean(self, split: tuple[int, int]) -> float:
        """Nats a word above the unquantized arm."""

    def fault(self, split: tuple[int, int]) -> str:
        """`in range`, or what is wrong with it."""


def splits_png(panels: Sequence[Panel], out: Path, dots_per_inch: int = 160) -> Path:
    """Draw a map for each panel; returns `out`. A line frames the splits that reach and resolve
    the table's RMS."""
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(5.6 * across + 0.9, 5.2 * down), layout="constrained")
        FigureCanvasAgg(figure)
        norm = SymLogNorm(LINEAR, vmin=0, vmax=WORST, base=10)
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(down, across, place + 1)
            image = _map(axes, panel, norm)
        bar = figure.colorbar(image, ax=figure.axes, shrink=0.6, ticks=[0, 0.02, 0.1, 0.3, 1, 3],
                              extend="max")
        bar.ax.set_yticklabels(["0", "0.02", "0.1", "0.3", "1", "3"])
        bar.set_label("nats a word above unquantized")
        if any(not math.isnan(panel.rms) for panel in panels):
            figure.suptitle("framed: reaches beyond the table's RMS and resolves it", fontsize=11,
                            color=FRAME)
        figure.savefig(out, dpi=dots_per_inch)
    return out


def _map(axes: Axes, panel: Panel, norm: SymLogNorm) -> AxesImage:
    size = 1 + max(max(split) for split in panel.costs)
    values = np.full((size, size), np.nan)
    for i, f in panel.costs:
        values[i, f] = panel.mean((i, f))
    image = axes.imshow(values, origin="lower", cmap="viridis_r", norm=norm)
    for i, f in panel.costs:
        ink = "white" if norm(values[i, f]) > 0.55 else "#222222"
        text = f"{values[i, f]:.2f}" if values[i, f] < 10 else f"{values[i, f]:.0f}"
        axes.text(f, i, text.replace("-0.00", "0.00"), ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(size))
    axes.set_yticks(range(size))
    axes.set_xlabel("fraction bits")
    axes.set_ylabel("integer bits")
    axes.set_title(panel.title, fontsize=12)
    if not math.isnan(panel.rms):
        _frame(axes, panel, size)
    return image


def _frame(axes: Axes, panel: Panel, size: int) -> None:
    """Line around the cells that the RMS of the table says are in range, cell border by cell border."""
    def inside(i: int, f: int) -> bool:
        return (i, f) in panel.costs and panel.fault((i, f)) == "in range"

    for i in range(size):
        for f in range(size):
            if not inside(i, f):
                continue
            for (di, df), (x, y) in {(1, 0): ((-0.5, 0.5), (0.5, 0.5)), (-1, 0): ((-0.5, 0.5), (-0.5, -0.5)),
                                     (0, 1): ((0.5, 0.5), (-0.5, 0.5)),
                                     (0, -1): ((-0.5, -0.5), (-0.5, 0.5))}.items():
                if not inside(i + di, f + df):
                    axes.plot([f + x[0], f + x[1]], [i + y[0], i + y[1]], color=FRAME, linewidth=2.4,
                              solid_capstyle="round", clip_on=False)
