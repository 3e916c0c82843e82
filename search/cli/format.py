"""How the command line writes figures and tables. Units follow from a metric's name: `latency_ms`,
`size_bytes`."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from spaces.shell import program, quoted, relative
from spaces.texts import visible
from spaces.uris import is_uri, origin

if TYPE_CHECKING:
    from search.records.run_folder import RunFolder

FORMATS = ("table", "csv", "json", "md")
PIPE_WIDTH = 160  # columns of a table that goes to a pipe or a file
ARROWS = {"minimize": "↓", "maximize": "↑"}
DOUBTFUL = "(!)"
NORMAL_95 = 1.96  # half-width of a 95% interval, in standard errors
SCALES = {
    "_bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "_params": ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1, "")),
}


def scaled(metric: str, value: float) -> tuple[float, str]:
    """The divisor and the unit in which `value` of `metric` reads well."""
    for suffix, scales in SCALES.items():
        if metric.endswith(suffix):
            return next(((size, unit) for size, unit in scales if abs(value) >= size), scales[-1])
    for suffix, unit in (("_ms", "ms"), ("_seconds", "s")):
        if metric.endswith(suffix):
            return 1.0, unit
    return 1.0, ""


def plain(value: float) -> str:
    """Three figures after rounding, never scientific notation between 0.001 and 100,000."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def figure(metric: str, value: Any) -> str:
    """A metric's value for people: `figure("size_bytes", 1234567)` is `1.23 MB`; what is no number
    stays as it is."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    if math.isnan(value):
        return "-"
    size, unit = scaled(metric, value)
    return f"{plain(value / size)} {unit}".rstrip()


def interval(metric: str, row: Mapping[str, Any]) -> str:
    """`figure`, with the 95% interval where the row holds the standard error `METRIC_se`: `12.3 ± 0.4 ms`."""
    value, error = row.get(metric), row.get(f"{metric}_se")
    if not isinstance(value, int | float) or not isinstance(error, int | float) or not math.isfinite(error):
        return figure(metric, value)
    return ranged(metric, value, NORMAL_95 * error)


def ranged(metric: str, value: float, half: float) -> str:
    """A value with the half-width of its interval: `12.3 ± 0.4 ms`; `figure` where that is 0. `DOUBTFUL`
    marks one that is wider than its value."""
    if not half:
        return figure(metric, value)
    size, unit = scaled(metric, value)
    told = f"{plain(value / size)} ± {float(f'{half / size:.2g}'):g} {unit}".rstrip()
    return f"{told} {DOUBTFUL}" if half > abs(value) else told


def label(metric: str) -> str:
    """A metric's name without the unit that its figure shows: `latency_ms` is `latency`,
    `size_bytes` is `size`."""
    return metric.removesuffix("_ms").removesuffix("_bytes")


def duration(seconds: float) -> str:
    """`47 s`, `3 m 05 s`, `2 h 10 m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} m {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted path by the fewest trailing parts that tell it from the others: `lora.rank` is `rank`."""
    names: dict[str, str] = {}
    for key in keys:
        parts = key.removeprefix("config.").split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            rivals = [other for other in keys if other != key and f".{other}".endswith(f".{name}")]
            if name != "name" and not rivals:
                break
        names[key] = name
    return names


def compact(value: Any) -> str:
    """A searched value in as few characters as keep it readable: a plug-in as `fixed(frac_bits=8)`,
    a list as `a+b`."""
    if isinstance(value, Mapping) and "name" in value:
        rest = ", ".join(f"{key}={compact(item)}" for key, item in value.items() if key != "name")
        return f"{value['name']}({rest})" if rest else str(value["name"])
    if isinstance(value, list | tuple):
        return "+".join(compact(item) for item in value)
    return plain(value) if isinstance(value, float) else str(value)


def emit(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """Rows of equal keys as csv, json or a Markdown table."""
    columns = list(rows[0]) if rows else []
    if form == "json":
        return json.dumps(list(rows), indent=1, default=str)
    rows = [{name: visible(value) if isinstance(value, str) else value for name, value in row.items()}
            for row in rows]
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().rstrip("\n")
    cells = [[str("" if row[name] is None else row[name]).replace("|", "\\|") for name in columns]
             for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *cells])


def grid(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = (),
         header: bool = True) -> Table:
    """A light table; the columns named in `right` are aligned to the right, the first never wraps."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False,
                  padding=(0, 2, 0, 0), header_style="dim", show_header=header)
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if name in right else "left", no_wrap=place == 0,
                         overflow="fold")
    for row in rows:  # marked up once: a table asks each of its cells twice, for its width and its lines
        table.add_row(*(cell if hasattr(cell, "__rich_console__") else Text.from_markup(str(cell))
                        for cell in row))
    return table


class ByWidth:
    """What is printed depends on the room: `wide` from `columns` on, `narrow` below. Both are renderables."""

    def __init__(self, wide: RenderableType, narrow: RenderableType, columns: int):
        self.wide, self.narrow, self.columns = wide, narrow, columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.wide if options.max_width >= self.columns else self.narrow


def shown(path: Path | str) -> str:
    """A path for people: relative where it lies below the working folder; of a copy, the URI of
    what was copied."""
    uri = str(path) if is_uri(path) else origin(Path(path))
    return uri or str(relative(Path(path)))


def command(*words: str) -> str:
    """A command of this program that runs as it is printed: `.venv/bin/qdlm front 'runs/my run'`."""
    return f"{program()} {quoted(*words)}"


class SafeConsole(Console):
    """A console on which text from outside (reasons, words, names) moves no cursor and sets no title."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As rich does, with control characters in the text shown."""
        for segment in super().render(renderable, options):  # once for each level of what is rendered
            clear = segment.control or segment.text == "\n" or segment.text.isprintable()
            yield segment if clear else Segment(visible(segment.text), segment.style)


def out(**options: Any) -> Console:
    """The console of results: standard output, wide where it is a pipe or a file."""
    console = SafeConsole(highlight=False, **options)
    if not console.is_terminal and "COLUMNS" not in os.environ and "width" not in options:
        console.width = PIPE_WIDTH
    return console


def tell_edited(folder: RunFolder) -> None:
    """A line on a space that is not the one with which the run began."""
    if folder.space_edited:
        out().print("[yellow]space.yaml was edited after the run began[/]: objectives and bounds above are "
                    "those of the edited file")
