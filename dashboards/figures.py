"""The figures of a run's report as files for papers and slides: each as PNG, SVG and the CSV
of what is drawn."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dashboards.plot_axes import WIDE, label
from dashboards.plot_panel import FAINT, LIT, PLAIN
from dashboards.style import STYLE

Table = tuple[list[str], list[Sequence[Any]]]
FORMATS = ("png", "svg")


def write_figures(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure that the run has data for (`content`: see `search.reporting.report.collect`);
    returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in (("front", _front), ("dimensions", _dimensions), ("hypervolume", _volume),
                       ("curves", _curves), ("importance", _importance)):
        with matplotlib.rc_context({**STYLE, "svg.fonttype": "none", "text.parse_math": False}):
            drawn = draw(content)
            if drawn is None:
                continue
            figure, (columns, rows) = drawn
            for form in FORMATS:
                written.append(folder / f"{name}.{form}")
                figure.savefig(written[-1], dpi=160, metadata={"Title": content["run"]["name"]})
        written.append(folder / f"{name}.csv")
        with open(written[-1], "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([_safe(value) for value in row] for row in rows)
    return written


def _safe(value: Any) -> Any:
    """A spreadsheet runs a text that begins like a formula; the apostrophe keeps it text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _panels(count: int, height: float = 3.4) -> tuple[Figure, list[Any]]:
    across = min(3, count)
    lines = math.ceil(count / across)
    figure = Figure(figsize=(4.3 * across + 0.4, height * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(lines, across, squeeze=False).flat)
    for spare in panels[count:]:
        spare.set_visible(False)
    return figure, panels[:count]


def _scaled(panel: Any, which: str, values: Sequence[float]) -> None:
    good = [value for value in values if value is not None]
    if good and min(good) > 0 and max(good) / min(good) > WIDE:
        getattr(panel, f"set_{which}scale")("log")


def _scatter(panel: Any, x: Sequence[Any], y: Sequence[Any], kinds: Sequence[str]) -> None:
    for kind, look in (("early", {"s": 12, "color": FAINT}),
                       ("complete", {"s": 26, "facecolors": "none", "edgecolors": PLAIN}),
                       ("front", {"s": 48, "color": LIT, "marker": "D", "edgecolors": "white", "zorder": 3})):
        points = [(a, b) for a, b, own in zip(x, y, kinds, strict=True)
                  if own == kind and a is not None and b is not None]
        if points:
            panel.scatter(*zip(*points, strict=True), label=kind, **look)


def _kinds(content: Mapping[str, Any]) -> list[str]:
    trials, lit = content["trials"], set(content["front"])
    return ["front" if trial in lit else "complete" if state == "complete" else "early"
            for trial, state in zip(trials["trial"], trials["state"], strict=True)]


def _front(content: Mapping[str, Any]) -> tuple[Figure, Table] | None:
    trials, objectives, kinds = content["trials"], content["objectives"], _kinds(content)
    first, *others = objectives
    others = others or [{"metric": "trial", "direction": ""}]
    if not trials["trial"]:
        return None
    figure, panels = _panels(len(others))
    for panel, other in zip(panels, others, strict=True):
        x, y = trials.get(other["metric"], []), trials.get(first["metric"], [])
        if x and y:
            _scatter(panel, x, y, kinds)
            _scaled(panel, "x", x)
            _scaled(panel, "y", y)
        panel.set(xlabel=label(other), ylabel=label(first))
    panels[0].legend(frameon=False)
    names = ["trial", *dict.fromkeys(item["metric"] for item in objectives)]
    return figure, ([*names, "kind"],
                    list(zip(*(trials.get(name, [None] * len(kinds)) for name in names), kinds, strict=True)))


def _dimensions(content: Mapping[str, Any]) -> tuple[Figure, Table] | None:
    trials, dimensions = content["trials"], content["dimensions"]
    complete = [place for place, kind in enumerate(_kinds(content)) if kind != "early"]
    first = content["objectives"][0]
    if not dimensions or not complete:
        return None
    kinds = [_kinds(content)[place] for place in complete]
    y = [trials[first["metric"]][place] for place in complete]
    figure, panels = _panels(len(dimensions))
    for panel, item in zip(panels, dimensions, strict=True):
        x = [trials[f"config.{item['path']}"][place] for place in complete]
        if item["kind"] == "choice":
            names = sorted({str(value) for value in x})
            x = [names.index(str(value)) for value in x]
            panel.set_xticks(range(len(names)), [name[:18] for name in names], rotation=30, ha="right",
                             fontsize=8)
        elif item["kind"] == "log":
            panel.set_xscale("log")
        _scatter(panel, x, y, kinds)
        panel.set(xlabel=item["path"], ylabel=first["metric"])
    paths = [item["path"] for item in dimensions]
    rows: list[Sequence[Any]]
    rows = [(trials["trial"][place],
             *(trials[f"config.{path}"][place] for path in paths), trials[first["metric"]][place])
            for place in complete]
    return figure, (["trial", *paths, first["metric"]], rows)


def _volume(content: Mapping[str, Any]) -> tuple[Figure, Table] | None:
    progress = content["progress"]
    if not progress["hypervolume"]:
        return None
    figure, panels = _panels(3)
    for panel, axis in zip(panels, ("seconds", "device_hours", "trials"), strict=True):
        panel.step(progress[axis], progress["hypervolume"], where="post", color=PLAIN)
        panel.set(xlabel=axis.replace("_", "-"), ylabel="hypervolume")
    names = ["trials", "seconds", "device_hours", "hypervolume"]
    return figure, (names, list(zip(*(progress[name] for name in names), strict=True)))


def _curves(content: Mapping[str, Any]) -> tuple[Figure, Table] | None:
    curves, objectives, lit = content["rungs"]["curves"], content["objectives"], set(content["front"])
    if not curves:
        return None
    figure, panels = _panels(len(objectives))
    rows: list[Sequence[Any]] = []
    for panel, item in zip(panels, objectives, strict=True):
        metric = item["metric"]
        for curve in curves:
            color = LIT if curve["trial"] in lit else FAINT
            panel.plot(curve["steps"], [math.nan if value is None else value for value in curve[metric]],
                       color=color, marker=".", linewidth=0.8, zorder=2 + (color == LIT))
            rows += [(curve["trial"], step, metric, value)
                     for step, value in zip(curve["steps"], curve[metric], strict=True)]
        _scaled(panel, "y", [value for curve in curves for value in curve[metric]])
        panel.set(xlabel="training steps", ylabel=metric)
    return figure, (["trial", "steps", "objective", "value"], rows)


def _importance(content: Mapping[str, Any]) -> tuple[Figure, Table] | None:
    found = content["importance"]
    if not found:
        return None
    figure, panels = _panels(len(found))
    for panel, (metric, shares) in zip(panels, found.items(), strict=True):
        order = sorted(shares, key=shares.get)
        panel.barh(range(len(order)), [shares[path] for path in order], color=PLAIN)
        panel.set_yticks(range(len(order)), order, fontsize=8)
        panel.set(title=metric, xlim=(0, 1))
    return (figure,
            (["objective", "dimension", "share"],
             [(metric, path, share) for metric, shares in found.items() for path, share in shares.items()]))
