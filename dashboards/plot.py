"""The picture of a run: its front with every trial behind it, as PNG. Reads run.json, front.json and
trials.parquet only."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.plot_axes import label
from dashboards.plot_panel import Picture, fill, name, outline
from dashboards.style import STYLE
from search.pareto.stability import SOURCES
from search.pareto.stability import figure as figure_of
from spaces.errors import UserError

ACROSS = 3
"""Panels side by side before a new line begins."""


def front_png(run_folder: Path, out: Path, dots_per_inch: int = 160) -> Path:
    """Draw the front of a run and every trial behind it; returns `out`.

    The first objective stands on the vertical axis, each other one has a panel (a single objective is drawn
    over trials). Members are lit, and in each panel those that no other one beats on its two axes are joined.
    What was measured anew stands at its fresh figures; members that lost their place by them are apart.
    Raises `UserError` when the run has no front yet.
    """
    picture = read(Path(run_folder))
    with matplotlib.rc_context(STYLE):
        figure = draw(picture)
        figure.savefig(out, dpi=dots_per_inch, metadata={"Title": picture.name})
    return out


def read(run: Path) -> Picture:
    """What the files of RUN hold. Raises `UserError` naming the file that is missing or damaged."""
    for file in ("run.json", "front.json", "trials.parquet"):
        if not (run / file).is_file():
            raise UserError(f"{run}: nothing to draw yet: no {file}")
    try:
        meta = json.loads((run / "run.json").read_text(encoding="utf-8"))
        front = json.loads((run / "front.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(run / "trials.parquet")
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{run}: cannot be drawn: {error}") from None
    last = table.sort_values(["trial", "rung"]).groupby("trial", as_index=False).tail(1)
    last = at_figures(last, [item["metric"] for item in (*front["objectives"], *front["constraints"])])
    lit = [member["trial"] for member in front["members"]]
    lost = [member["trial"] for member in front["members"] if member.get("place") == "lost"]
    complete = last[last["state"] == "complete"]
    kept = [all(holds(row, bound) for bound in front["constraints"]) for row in complete.to_dict("records")]
    allowed = pd.Series(kept, complete.index, dtype=bool)
    rest = ~complete["trial"].isin(lit)
    tagged = last["tag"].notna() if "tag" in last else pd.Series(False, last.index)
    return Picture(
        name=meta.get("name", run.name), objectives=front["objectives"], constraints=front["constraints"],
        members=last[last["trial"].isin(lit) & ~last["trial"].isin(lost)],
        lost=last[last["trial"].isin(lost)], others=complete[allowed & rest], out=complete[~allowed & rest],
        early=last[last["state"].isin(["stopped", "rung"])], arm=last[tagged])


def at_figures(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows with each metric at the figure to go by (`search.pareto.stability.figure`), `METRIC_half` half
    the width of its 95 % interval, and `fresh` whether one of them was measured anew."""
    needed = [name for name in rows if name in SOURCES or str(name).startswith(tuple(metrics))]
    records = [{str(name): value for name, value in row.items()} for row in rows[needed].to_dict("records")]
    figures = {metric: [figure_of(row, metric) for row in records] for metric in metrics}
    return rows.assign(
        fresh=[any(one.of != "own" for one in each) for each in zip(*figures.values(), strict=True)],
        **{metric: [one.mean for one in found] for metric, found in figures.items()},
        **{f"{metric}_half": [one.half for one in found] for metric, found in figures.items()})


def holds(row: Mapping[Hashable, Any], bound: dict[str, Any]) -> bool:
    """Whether a row keeps to a constraint."""
    value = row.get(bound["metric"], math.nan)
    return bool(value <= bound["bound"] if bound["op"] == "<=" else value >= bound["bound"])


def draw(picture: Picture) -> Figure:
    """The figure: panels under a headline, one legend below."""
    down, *across = picture.objectives
    across = across or [{"metric": "trial", "direction": ""}]
    lines = math.ceil(len(across) / ACROSS)
    columns = math.ceil(len(across) / lines)
    width = {1: 8.2, 2: 11.5}.get(columns, 14.0)
    figure = Figure(figsize=(width, 0.9 + 4.5 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    heights = []
    for panel, axis in zip(grid.flat, across, strict=False):
        fill(panel, picture, axis, down)
        heights += panel.get_ylim()
    # shared by all panels, each of which may lack some trials
    grid.flat[0].set_ylim(min(heights), max(heights))
    for panel, axis in zip(grid.flat, across, strict=False):
        outline(panel, picture, axis, down)
    for spare in grid.flat[len(across):]:
        spare.set_visible(False)
    for line in grid:
        line[0].set_ylabel(label(down))
    share = f"{len(picture.members) + len(picture.lost)} of {picture.complete} complete trials on the front"
    figure.suptitle(f"{picture.name}: {share}", x=0.01, ha="left", fontsize=14, fontweight="bold")
    legend(figure, {text: handle for panel in grid.flat
                    for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)})
    for panel, axis in zip(grid.flat, across, strict=False):
        name(panel, picture, axis, down)
    return figure


def legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """All that is drawn, by name, below the panels: in one line, or in as few as fit into the figure, which
    is laid out by this."""
    for columns in range(len(handles), 0, -1):
        found = figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns,
                              frameon=False, fontsize=11, handletextpad=0.4, columnspacing=1.6)
        figure.draw_without_rendering()
        if columns == 1 or found.get_window_extent().width <= figure.bbox.width:
            return
        found.remove()
