"""`qdlm table`: what a run's models are worth beside what people compare them with, as the
papers print it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from search.cli.arguments import AS_JSON, run_folder
from search.cli.examples import examples
from spaces.errors import UserError


@dataclass(frozen=True)
class TableRequest:
    """What the command line said. A layout may leave out what it has no use for."""

    run: Path
    targets: int
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    artifact: str | None
    fresh: bool
    metric: str | None = None


@dataclass(frozen=True)
class TableContent:
    """A table: rows of equal keys, what is to be known of it, and where it was kept."""

    title: str
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


LAYOUTS: dict[str, str] = {"tasks": "search.cli.table_tasks:layout",
                           "quantizers": "search.cli.table_quantizers:layout",
                           "post_training": "search.cli.table_post_training:layout",
                           "adapters": "search.cli.table_adapters:layout"}
"""Name -> import path of a function `layout(request: TableRequest) -> TableContent`. A new layout is one
function and one line here."""


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Use what was found", epilog=examples(
        "qdlm table runs/NAME", "control / lm-score of the best model and the baselines, 50 targets a task",
        "qdlm table runs/NAME --targets 200 --tasks semantic,length", "more targets, fewer tasks",
        "qdlm table runs/NAME --layout post_training", "methods against bits, over calibration seeds",
        "qdlm table runs/NAME --layout adapters", "starts of adapters against formats of the base",
        "qdlm table runs/NAME --format csv > table.csv", "for a spreadsheet; also md, json",
    ))(table)


def table(
    run: Path = typer.Argument(help="A run: its folder or its URI.", metavar="RUN", show_default=False,
                               parser=run_folder),
    layout: str = typer.Option("tasks", metavar="NAME", help=f"Which table: {', '.join(LAYOUTS)}."),
    targets: int = typer.Option(50, metavar="N", min=2, help="Targets per task."),
    tasks: str | None = typer.Option(None, metavar="A,B", show_default=False,
                                     help="Control tasks; by default those of the space."),
    methods: str | None = typer.Option(None, metavar="A,B", show_default=False, help="Rows; by default all."),
    artifact: str | None = typer.Option(None, metavar="NAME", show_default=False, help="The diffusion model: "
                                        "trial-0003, or base. By default the most controllable one."),
    metric: str | None = typer.Option(None, metavar="NAME", show_default=False, help="Of the cells of "
                                      "post_training (by default kl_to_base) and adapters (nll_bound); "
                                      "perplexity where that is missing."),
    fresh: bool = typer.Option(False, "--fresh", help="Measure again what RUN already holds."),
    form: Literal["table", "csv", "json", "md"] = typer.Option("table",
                                                               "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
) -> None:
    """Print a run's table: methods against control tasks, cells control / lm-score with 95%
    intervals over targets.

    What is missing is measured first (baselines are trained: minutes per task) and kept in RUN.
    """
    form = "json" if as_json else form
    if layout not in LAYOUTS:
        raise UserError(f"unknown table layout {layout!r}; legal: {', '.join(LAYOUTS)}")
    request = TableRequest(run, targets, _parts(tasks), _parts(methods), artifact, fresh, metric)
    content = resolve(layout)(request)
    show(content, form)


def resolve(layout: str) -> Callable[[TableRequest], TableContent]:
    """The function behind a layout's name."""
    module, _, name = LAYOUTS[layout].partition(":")
    return getattr(importlib.import_module(module), name)


def show(content: TableContent, form: str) -> None:
    """Print a table for people, or its rows for programs."""
    from rich.markup import escape

    from search.cli.format import emit, grid, out, shown

    if form != "table":
        typer.echo(emit(content.rows, form))
        return
    columns = list(content.rows[0])
    console = out()
    cells = [["-" if row[name] is None else escape(str(row[name])) for name in columns]
             for row in content.rows]
    console.print(grid(escape(content.title), columns, cells, right=columns[1:]))
    for note in content.notes:
        console.print(f"[dim]{escape(note)}[/]")
    if content.files:
        console.print(f"[dim]kept in {escape(', '.join(shown(path) for path in content.files))}[/]")


def _parts(text: str | None) -> tuple[str, ...]:
    """`a, b` as ("a", "b"). Names that hold a comma come in pieces; the layout knows its names
    and joins them."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()
