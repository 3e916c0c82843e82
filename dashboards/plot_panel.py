"""One panel of the picture: trials over two metrics, the attained staircase, intervals, bounds
and trial numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from dashboards.plot_axes import WIDE, dress
from dashboards.style import INK

# Okabe and Ito's palette: told apart with any color vision; the markers differ in shape as well.
LIT, PLAIN, MARKED, FAINT = "#D55E00", "#0072B2", "#009E73", "#A6A6A6"


@dataclass(frozen=True)
class Picture:
    """What is drawn. `members`, `lost` (members that lost their place when they were measured anew), `arm`:
    last row of those trials; `others`: complete, `out`: complete but infeasible, `early`: not run to the
    end."""

    name: str
    objectives: Sequence[dict[str, str]]
    constraints: Sequence[dict[str, Any]]
    members: pd.DataFrame
    lost: pd.DataFrame
    others: pd.DataFrame
    out: pd.DataFrame
    early: pd.DataFrame
    arm: pd.DataFrame

    @property
    def complete(self) -> int:
        """Number of complete trials."""
        return len(self.members) + len(self.lost) + len(self.others) + len(self.out)


def fill(panel: Axes, picture: Picture, across: dict[str, str], down: dict[str, str]) -> None:
    """Draw the trials and fix the axes. `across` may be the trial itself."""
    x, y = across["metric"], down["metric"]

    def scatter(rows: pd.DataFrame, name: str, **look: Any) -> None:
        rows = _finite(rows, x, y)
        if len(rows):
            panel.scatter(rows[x], rows[y], label=name, clip_on=False, **look)

    def plain(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[~rows["trial"].isin(picture.arm["trial"])]

    core = pd.concat([_finite(frame, x, y)[[x, y]]
                      for frame in (picture.members, picture.lost, picture.others, picture.arm)])
    early, out, others = (_in_reach(plain(picture.early), core), _in_reach(plain(picture.out), core),
                          plain(picture.others))
    far = "" if early.equals(plain(picture.early)) else ", far ones at the edge"
    scatter(early, f"stopped early ({len(early)}{far})", s=16, color=FAINT, linewidths=0, alpha=0.9, zorder=3)
    scatter(out, f"breaks a constraint ({len(out)})", s=40, color=FAINT, marker="x", linewidths=1.6, zorder=3)
    scatter(others, f"dominated ({len(others)})", s=46, facecolors="white", edgecolors=PLAIN,
            linewidths=1.6, zorder=4)
    scatter(picture.lost, f"lost its place, measured anew ({len(picture.lost)})", s=80, facecolors="white",
            edgecolors=LIT, linewidths=1.4, zorder=6)
    anew = ", measured anew" if picture.members.get("fresh", pd.Series(dtype=bool)).any() else ""
    scatter(picture.members, f"front{anew} ({len(picture.members)})", s=95, color=LIT, edgecolors="white",
            linewidths=1.2, zorder=7)
    for tag, rows in picture.arm.groupby("tag") if len(picture.arm) else ():
        edges = [LIT if trial in set(picture.members["trial"]) else "white"
                 for trial in _finite(rows, x, y)["trial"]]
        scatter(rows, str(tag), s=230, color=MARKED, marker="*", edgecolors=edges, linewidths=1.3, zorder=8)
    members, lost = _finite(picture.members, x, y), _finite(picture.lost, x, y)
    for metric, vertical in ((x, False), (y, True)):
        _interval(panel, pd.concat([members, lost]), x, y, metric, vertical)
    shown = [_finite(frame, x, y)[[x, y]] for frame in (members, lost, others, out, early, picture.arm)]
    dress(panel, across, down, pd.concat(shown))


def outline(panel: Axes, picture: Picture, across: dict[str, str], down: dict[str, str]) -> None:
    """The staircase (over trials: the best so far) and the bounds, to the limits of the axes,
    which must be final."""
    x, y = across["metric"], down["metric"]
    members = _finite(picture.members, x, y)
    joined = members if across["direction"] else pd.concat([members, _finite(picture.others, x, y)])
    if len(joined):
        _attained(panel, joined, across, down)
    for bound in picture.constraints:
        _bound(panel, bound, x, y)


def _finite(rows: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """Rows that have all the metrics; none when a metric was never measured."""
    if not set(metrics) <= set(rows.columns):
        return rows.iloc[:0].reindex(columns=[*rows.columns, *(set(metrics) - set(rows.columns))])
    return rows.loc[rows[list(metrics)].astype(float).map(math.isfinite).all(axis=1)]


def _in_reach(rows: pd.DataFrame, core: pd.DataFrame) -> pd.DataFrame:
    """Rows with what lies further from the core's range than the range is wide moved to that distance.

    A model that writes noise has a perplexity of thousands; to scale, it would press all
    others into one line.
    """
    moved = {}
    for metric in core.columns if len(core) else ():
        low, high = core[metric].min(), core[metric].max()
        if metric in rows and high > low:
            logarithmic = low > 0 and high / low > WIDE
            span = high / low if logarithmic else high - low
            moved[metric] = rows[metric].astype(float).clip(*((low / span, high * span) if logarithmic else
                                                               (low - span, high + span)))
    return rows.assign(**moved)


def _unbeaten(rows: pd.DataFrame, across: dict[str, str], down: dict[str, str]) -> pd.DataFrame:
    """Rows that no other one beats on the two axes of the panel, left to right."""
    signs = [-1.0 if item["direction"] == "maximize" else 1.0 for item in (across, down)]
    points = rows[[across["metric"], down["metric"]]].to_numpy(float) * signs
    beaten = [((points <= point).all(axis=1) & (points < point).any(axis=1)).any() for point in points]
    return rows[~np.array(beaten)].sort_values(across["metric"])


def _attained(panel: Axes, rows: pd.DataFrame, across: dict[str, str], down: dict[str, str]) -> None:
    """The staircase through the unbeaten rows, with everything that it beats shaded."""
    best = _unbeaten(rows, across, down)
    x, y = best[across["metric"]].to_list(), best[down["metric"]].to_list()
    limits, worst = panel.get_xlim(), panel.get_ylim()[0 if down["direction"] == "maximize" else 1]
    step: Literal["pre", "post"]
    if across["direction"] == "maximize":
        x, y, step = [limits[0], *x], [y[0], *y], "pre"
    else:
        x, y, step = [*x, limits[1]], [*y, y[-1]], "post"
    panel.fill_between(x, y, worst, step=step, color=LIT, alpha=0.07, linewidth=0, zorder=1)
    panel.plot(x, y, drawstyle=f"steps-{step}", color=LIT, linewidth=1.8, alpha=0.85, zorder=5)


def _interval(panel: Axes, members: pd.DataFrame, x: str, y: str, metric: str, vertical: bool) -> None:
    """95% intervals of the figures, where there are any."""
    if f"{metric}_half" in members and (size := members[f"{metric}_half"].astype(float).fillna(0.0)).any():
        panel.errorbar(members[x], members[y], yerr=size if vertical else None,
                       xerr=None if vertical else size, fmt="none", ecolor=LIT, elinewidth=1.2, alpha=0.55,
                       zorder=6)


def name(panel: Axes, picture: Picture, across: dict[str, str], down: dict[str, str]) -> None:
    """Trial numbers beside the members, on their good side first; left out where one would touch
    another or a member.

    The layout must be final: places are compared in pixels.
    """
    x, y = across["metric"], down["metric"]
    members = _finite(picture.members, x, y)
    right, up = (1 if item["direction"] == "maximize" else -1 for item in (across, down))
    spots = panel.transData.transform(members[[x, y]].to_numpy(float)) if len(members) else np.empty((0, 2))
    boxes = [Bbox.from_bounds(left - 8, low - 8, 16, 16) for left, low in spots]
    scale = panel.figure.dpi / 72
    for index, (spot, trial) in enumerate(zip(spots, members["trial"], strict=True)):
        wide, high = 7.5 * len(str(trial)) * scale, 10 * scale
        for side, rise in ((right, up), (0, up), (right, 0), (right, -up), (-right, up)):
            middle = spot + np.array([side * (wide / 2 + 6 * scale), rise * (high / 2 + 6 * scale)])
            if side == 0 or rise == 0:
                middle += np.array([side, rise]) * 3 * scale
            box = Bbox.from_bounds(middle[0] - wide / 2, middle[1] - high / 2, wide, high)
            if not any(box.overlaps(other) for place, other in enumerate(boxes) if place != index):
                boxes.append(box)
                at = panel.transData.inverted().transform(middle)
                panel.text(at[0], at[1], str(trial), ha="center", va="center",
                           fontsize=10, color=LIT, fontweight="bold", zorder=9, in_layout=False)
                break


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
