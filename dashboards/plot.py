"""The picture of a run: its front with every trial behind it, as PNG. Reads run.json, front.json and trials.parquet only."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.plot_axes import dress, label
from spaces.errors import UserError

# Okabe and Ito's palette: told apart with any color vision; the markers differ in shape as well.
LIT, PLAIN, MARKED, FAINT, INK = "#D55E00", "#0072B2", "#009E73", "#A6A6A6", "#222222"
STYLE = {
    "font.size": 12, "axes.labelsize": 13, "xtick.labelsize": 11, "ytick.labelsize": 11, "axes.edgecolor": "#888888",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "text.color": INK, "axes.labelcolor": INK, "xtick.color": "#555555",
    "ytick.color": "#555555", "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0,
}
ACROSS = 3
"""Panels side by side before a new line begins."""


@dataclass(frozen=True)
class Picture:
    """What is drawn. `members`, `arm`: last row of those trials; `others`: complete, `out`: complete but infeasible,
    `early`: not run to the end."""

    name: str
    objectives: Sequence[dict[str, str]]
    constraints: Sequence[dict[str, Any]]
    members: pd.DataFrame
    others: pd.DataFrame
    out: pd.DataFrame
    early: pd.DataFrame
    arm: pd.DataFrame

    @property
    def complete(self) -> int:
        """Number of complete trials."""
        return len(self.members) + len(self.others) + len(self.out)


def front_png(run_folder: Path, out: Path, dots_per_inch: int = 160) -> Path:
    """Draw the front of a run and every trial behind it; returns `out`.

    The first objective stands on the vertical axis, each other one has a panel (a single objective is drawn over trials).
    Members are lit, and in each panel those that no other one beats on its two axes are joined. Raises `UserError` when the
    run has no front yet.
    """
    picture = read(Path(run_folder))
    with matplotlib.rc_context(STYLE):
        figure = draw(picture)
        figure.savefig(out, dpi=dots_per_inch, metadata={"Title": picture.name})
    return out


def read(run: Path) -> Picture:
    """What the files of RUN hold. Raises `UserError` naming the file that is missing or damaged."""
    try:
        meta = json.loads((run / "run.json").read_text(encoding="utf-8"))
        front = json.loads((run / "front.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(run / "trials.parquet")
    except FileNotFoundError as error:
        raise UserError(f"{run}: nothing to draw yet: no {Path(error.filename).name}") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{run}: cannot be drawn: {error}") from None
    last = table.sort_values(["trial", "rung"]).groupby("trial", as_index=False).tail(1).set_index("trial", drop=False)
    lit = [member["trial"] for member in front["members"]]
    complete = last[last["state"] == "complete"]
    allowed = complete.apply(lambda row: all(holds(row, bound) for bound in front["constraints"]), axis=1).astype(bool)
    rest = ~complete["trial"].isin(lit)
    tagged = last["tag"].notna() if "tag" in last else pd.Series(False, last.index)
    return Picture(
        name=meta.get("name", run.name), objectives=front["objectives"], constraints=front["constraints"],
        members=last[last["trial"].isin(lit)], others=complete[allowed & rest], out=complete[~allowed & rest],
        early=last[last["state"].isin(["stopped", "rung"])], arm=last[tagged])


def holds(row: pd.Series, bound: dict[str, Any]) -> bool:
    """Whether a row keeps to a constraint."""
    value = row.get(bound["metric"], math.nan)
    return bool(value <= bound["bound"] if bound["op"] == "<=" else value >= bound["bound"])


def draw(picture: Picture) -> Figure:
    """The figure: panels under a headline, one legend below."""
    down, *across = picture.objectives
    across = across or [{"metric": "trial", "direction": ""}]
    columns = min(len(across), ACROSS)
    lines = math.ceil(len(across) / columns)
    width = {1: 8.2, 2: 11.5}.get(columns, 14.0)
    figure = Figure(figsize=(width, 0.9 + 4.5 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for panel, axis in zip(grid.flat, across, strict=False):
        _panel(panel, picture, axis, down)
    for spare in grid.flat[len(across):]:
        spare.set_visible(False)
    for line in grid:
        line[0].set_ylabel(label(down))
    share = f"{len(picture.members)} of {picture.complete} complete trials on the front"
    figure.suptitle(f"{picture.name}: {share}", x=0.01, ha="left", fontsize=14, fontweight="bold")
    handles = {text: handle for panel in grid.flat for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False,
                  fontsize=11, handletextpad=0.4, columnspacing=1.6)
    return figure


def _panel(panel: Axes, picture: Picture, across: dict[str, str], down: dict[str, str]) -> None:
    x, y = across["metric"], down["metric"]

    def scatter(rows: pd.DataFrame, name: str, **look: Any) -> None:
        rows = _finite(rows, x, y)
        if len(rows):
            panel.scatter(rows[x], rows[y], label=f"{name} ({len(rows)})", clip_on=False, **look)

    scatter(picture.early, "stopped early", s=16, color=FAINT, linewidths=0, alpha=0.9, zorder=3)
    scatter(picture.out, "breaks a constraint", s=40, color=FAINT, marker="x", linewidths=1.6, zorder=3)
    scatter(picture.others, "dominated", s=46, facecolors="white", edgecolors=PLAIN, linewidths=1.6, zorder=4)
    members = _finite(picture.members, x, y)
    for metric, vertical in ((x, False), (y, True)):
        _interval(panel, members, x, y, metric, vertical)
    scatter(picture.members, "front", s=95, color=LIT, edgecolors="white", linewidths=1.2, zorder=7)
    arm = "/".join(dict.fromkeys(picture.arm["tag"])) if len(picture.arm) else ""
    scatter(picture.arm, arm, s=210, color=MARKED, marker="*", edgecolors="white", linewidths=1.0, zorder=8)
    shown = [frame for frame in (members, picture.others, picture.out, picture.early, picture.arm) if len(frame)]
    dress(panel, across, down, pd.concat([_finite(frame, x, y)[[x, y]] for frame in shown]) if shown else None)
    if across["direction"] and len(members):
        _attained(panel, members, across, down)
        _name(panel, members, across, down)
    for bound in picture.constraints:
        _bound(panel, bound, x, y)


def _finite(rows: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """Rows that have all the metrics; none when a metric was never measured."""
    if not set(metrics) <= set(rows.columns):
        return rows.iloc[:0].reindex(columns=[*rows.columns, *(set(metrics) - set(rows.columns))])
    return rows[np.isfinite(rows[list(metrics)].astype(float)).all(axis=1)]


def _best_of_panel(members: pd.DataFrame, across: dict[str, str], down: dict[str, str]) -> pd.DataFrame:
    """Members that no other one beats on the two axes of the panel, left to right."""
    signs = [-1.0 if item["direction"] == "maximize" else 1.0 for item in (across, down)]
    points = members[[across["metric"], down["metric"]]].to_numpy(float) * signs
    beaten = [((points <= point).all(axis=1) & (points < point).any(axis=1)).any() for point in points]
    return members[~np.array(beaten)].sort_values(across["metric"])


def _attained(panel: Axes, members: pd.DataFrame, across: dict[str, str], down: dict[str, str]) -> None:
    """The staircase through the members, with everything that it beats shaded."""
    best = _best_of_panel(members, across, down)
    x, y = best[across["metric"]].to_list(), best[down["metric"]].to_list()
    limits, worst = panel.get_xlim(), panel.get_ylim()[0 if down["direction"] == "maximize" else 1]
    if across["direction"] == "maximize":
        x, y, step = [limits[0], *x], [y[0], *y], "pre"
    else:
        x, y, step = [*x, limits[1]], [*y, y[-1]], "post"
    panel.fill_between(x, y, worst, step=step, color=LIT, alpha=0.07, linewidth=0, zorder=1)
    panel.plot(x, y, drawstyle=f"steps-{step}", color=LIT, linewidth=1.8, alpha=0.85, zorder=5)


def _interval(panel: Axes, members: pd.DataFrame, x: str, y: str, metric: str, vertical: bool) -> None:
    """95% intervals, where a standard error was measured beside the metric."""
    if f"{metric}_se" in members:
        size = 1.96 * members[f"{metric}_se"].astype(float).fillna(0.0)
        panel.errorbar(members[x], members[y], **{"yerr" if vertical else "xerr": size}, fmt="none", ecolor=LIT,
                       elinewidth=1.2, alpha=0.55, zorder=6)


def _name(panel: Axes, members: pd.DataFrame, across: dict[str, str], down: dict[str, str]) -> None:
    """Trial numbers beside the members, on their good side, where nothing else lies; left out where two would touch."""
    right, up = across["direction"] == "maximize", down["direction"] == "maximize"
    taken: list[np.ndarray] = []
    for _, row in members.iterrows():
        spot = panel.transData.transform((row[across["metric"]], row[down["metric"]]))
        if all((np.abs(spot - other) > (30, 17)).any() for other in taken):
            taken.append(spot)
            panel.annotate(str(row["trial"]), (row[across["metric"]], row[down["metric"]]), textcoords="offset points",
                           xytext=(7 if right else -7, 7 if up else -7), ha="left" if right else "right",
                           va="bottom" if up else "top", fontsize=10, color=LIT, fontweight="bold", zorder=9)


def _bound(panel: Axes, bound: dict[str, Any], x: str, y: str) -> None:
    """A line at a constraint on one of the axes, hatched on the forbidden side, when it lies in view."""
    if bound["metric"] not in (x, y):
        return
    low, high = sorted(panel.get_xlim() if bound["metric"] == x else panel.get_ylim())
    if not low < bound["bound"] < high:
        return
    line, span = (panel.axvline, panel.axvspan) if bound["metric"] == x else (panel.axhline, panel.axhspan)
    line(bound["bound"], color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
    beyond = (bound["bound"], high) if bound["op"] == "<=" else (low, bound["bound"])
    span(*beyond, facecolor="none", edgecolor="#DDDDDD", hatch="///", linewidth=0, zorder=0.5)
    panel.set_xlim(panel.get_xlim())
