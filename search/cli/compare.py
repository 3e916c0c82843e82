"""`qdlm compare`: the fronts of several runs over each other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from search.cli.arguments import AS_JSON, run_folder
from search.cli.examples import examples
from spaces.errors import UserError


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm compare runs/ONE runs/OTHER", "whose front is larger, and what changed between their spaces",
        "qdlm compare runs/ONE runs/OTHER --figure fronts.png", "the fronts over each other; also .svg, .pdf",
    ))(compare)


def compare(
    runs: list[Path] = typer.Argument(help="At least two runs: folders or URIs.", metavar="RUN...",
                                      show_default=False, parser=run_folder),
    form: Literal["table", "json"] = typer.Option("table", "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
    figure: Path | None = typer.Option(None, metavar="FILE", show_default=False,
                                       help="Draw the fronts there."),
) -> None:
    """Compare runs of equal objectives: hypervolume to one reference with intervals, best values,
    changes of the space."""
    form = "json" if as_json else form
    import json

    from search.reporting.comparison import compare as compared

    if len(runs) < 2:
        raise UserError("give at least two runs to compare")
    found = compared(runs)
    if figure is not None:
        from dashboards.overlay import draw_fronts

        try:
            draw_fronts(*_fronts(runs), figure)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write {figure}: {error}") from error
    if form == "json":
        typer.echo(json.dumps(found, indent=1))
    else:
        _show(found)


def _fronts(runs: list[Path]) -> tuple[list[dict[str, str]], dict[str, list[dict]]]:
    """Objectives, and the members of each run's front under the run's name."""
    from search.reporting.comparison import ComparedRun

    sides = [ComparedRun.of(run) for run in runs]
    objectives = [{"metric": item.metric, "direction": item.direction} for item in sides[0].space.objectives]
    names = [side.folder.path.name for side in sides]
    labels = [name if names.count(name) == 1 else f"{name} ({place + 1})" for place, name in enumerate(names)]
    return objectives, {label: side.front.trusted(side.front.standing)
                        for label, side in zip(labels, sides, strict=True)}


WIDE = 150
"""Columns from which a run is a row of the table; below, it is a column."""


def _show(found: dict) -> None:
    from rich.markup import escape

    from search.cli.format import ByWidth, duration, figure, grid, out, plain, shown

    metrics = list(found["box"])
    columns = ["run", "state", "trials", "trial time", "front", "on the joint front",
               "hypervolume share (95%)", *(f"best {metric}" for metric in metrics)]
    rows = [(escape(shown(run["run"])), run["state"], run["trials"], duration(run["trial_seconds"]),
             run["front"],
             run["joint"], f"{plain(run['share'])} [dim]({plain(run['low'])} to {plain(run['high'])})[/]",
             *(figure(metric, run["best"][metric]) for metric in metrics)) for run in found["runs"]]
    console = out()
    turned = [[f"[dim]{name}[/]", *(str(row[place]) for row in rows)] for place, name in enumerate(columns)]
    narrow = grid(None, [""] * (len(rows) + 1), turned, header=False)
    console.print(ByWidth(grid(None, columns, rows, right=columns[2:]), narrow, WIDE))
    box = ", ".join(f"{metric} {figure(metric, best)} to {figure(metric, worst)}"
                    for metric, (best, worst) in found["box"].items())
    console.print(f"\n[dim]share of the box {escape(box)}; the interval is the members' measurement noise "
                  "alone, not what another search would find[/]")
    for warning in found["warnings"]:
        console.print(f"[yellow]warning[/] {escape(warning)}")
    for change in found["changes"]:
        name = change["run"]
        console.print(f"\n[bold]{escape(name)}[/] against the first:")
        for line in change["lines"] or ["the same space"]:
            console.print(
                f"  {escape(line.replace(' here,', f' in {name},').replace('in the run', 'in the first'))}")
