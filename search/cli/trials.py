"""`qdlm trials`: every trial of a run, what became of it and why, what it cost; or all about one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from search.cli.arguments import AS_JSON, run_folder
from search.cli.examples import examples
from spaces.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.records.run_folder import RunFolder
    from search.reporting.trials import Trial
    from spaces.schema import Space

WIDE = 130
"""Columns from which a trial is one row; below, its settings and its end are listed under the table."""
ENDS = ("_se", "_low", "_high", "_again", "_again_sd", "_seeds", "_seeds_sd", "_se_again")
"""Of columns that are shown beside another one."""
STATES = {"complete": "green", "stopped": "yellow", "failed": "red", "running": "cyan", "lost": "magenta"}


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm trials runs/NAME", "every trial: how it ended, why, what it took",
        "qdlm trials runs/NAME 3", "all about trial 3: settings, rungs, measurements, traceback",
        "qdlm trials runs/NAME --where state=failed", "only those",
        "qdlm trials runs/NAME --sort perplexity --limit 5", "the five best",
        "qdlm trials runs/NAME --sort -seconds --format csv", "the dearest first, for a spreadsheet",
    ))(trials)


def trials(
    run: Path = typer.Argument(help="A run: its folder or its URI.", metavar="RUN", show_default=False,
                               parser=run_folder),
    number: int | None = typer.Argument(None, metavar="N", show_default=False, help="Only this trial, with "
                                        "all that is known of it."),
    where: list[str] = typer.Option([], metavar="CONDITION", show_default=False,
                                    help="Only trials for which it holds: 'state=failed', 'rank >= 4', "
                                         "'quantizer != none'; may be given again."),
    sort: str | None = typer.Option(None, metavar="COLUMN", show_default=False,
                                    help="By this column, smallest first; -COLUMN: largest first."),
    limit: int | None = typer.Option(None, metavar="N", min=1, show_default=False, help="The first N."),
    form: Literal["table", "csv", "json", "md"] = typer.Option("table",
                                                               "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
) -> None:
    """List a run's trials: objectives, what became of each and why, what it took and cost, settings."""
    form = "json" if as_json else form
    from search.cli.format import emit, out
    from search.cli.results import opened
    from search.reporting.filtering import Condition, column, ordered
    from search.reporting.trials import trials as recorded

    folder, space, front = opened(run)
    found = recorded(folder, space, front)
    if number is not None:
        show_one(folder, space, the(found, number), form)
        return
    rows = {trial.number: trial.values() for trial in found}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    for condition in [Condition.parse(text, columns) for text in where]:
        found = [trial for trial in found if condition.holds(rows[trial.number])]
    if sort is not None:
        key = column(sort.removeprefix("-"), columns, f"--sort {sort}")
        found = ordered(found, lambda trial: rows[trial.number].get(key), sort.startswith("-"))
    found = found[:limit]
    if form == "table":
        out().print(table(space, found, len(rows)))
    else:
        typer.echo(emit([{name: rows[trial.number].get(name) for name in columns} for trial in found], form))


def the(found: Sequence[Trial], number: int) -> Trial:
    """The trial of a number. Raises `UserError`."""
    for trial in found:
        if trial.number == number:
            return trial
    known = f"0 to {found[-1].number}" if found else "none yet"
    raise UserError(f"trial {number}: the run has no such trial; legal: {known}")


def table(space: Space, found: Sequence[Trial], count: int) -> RenderableType:
    """Trials for people."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    from search.cli import format as shapes
    from search.cli.format import compact, duration, figure, grid, interval, label, plain
    from search.pareto.objectives import judged

    if not found:
        return Text.from_markup("[yellow]No trial has begun yet.[/]" if not count
                                else f"[yellow]None of {count} trials is meant.[/]")
    names = shapes.short_names([f"config.{path}" for path in space.dimensions])
    metrics = list(dict.fromkeys(judged(space.objectives, space.constraints)))
    money = any(trial.money is not None for trial in found)
    columns = ["trial", "state", *map(label, metrics), "time", f"{found[0].device}-hours",
               *(["money"] if money else [])]
    rows, ends = [], []
    for trial in found:
        settings = " ".join(f"{names.get(f'config.{path}', path)}={compact(value)}"
                            for path, value in trial.params.items())
        rows.append((str(trial.number), f"[{STATES[trial.state]}]{trial.state}[/]",
                     *(interval(name, trial.metrics) if name in trial.metrics
                       else figure(name, None) for name in metrics),
                     duration(trial.seconds), plain(trial.device_hours),
                     *([plain(trial.money or 0.0)] if money else [])))
        ends.append((escape(trial.why), f"[dim]{escape(settings)}[/]"))
    shown = "" if len(found) == count else f" of {count}"
    title = f"{len(found)}{shown} trial{'' if len(found) == 1 and not shown else 's'}"
    whole = [(*row, *end) for row, end in zip(rows, ends, strict=True)]
    below = [(row[0], f"{why}\n{settings}") for row, (why, settings) in zip(rows, ends, strict=True)]
    narrow = Group(grid(title, columns, rows, right=columns[2:]), "", grid(None, ("trial", "why"), below))
    return shapes.ByWidth(grid(title, [*columns, "why", "settings"], whole, right=columns[2:]), narrow, WIDE)


def show_one(folder: RunFolder, space: Space, trial: Trial, form: str) -> None:
    """All that is known of one trial."""
    from search.cli.format import emit, out

    traces = [str(entry["traceback"]) for entry in folder.events()
              if entry["event"] == "traceback" and entry["trial"] == trial.number]
    whole = {**trial.values(), "rungs": [{"steps": steps, **metrics} for steps, metrics in trial.rungs],
             "traceback": traces[-1] if traces else None}
    if form == "json":
        typer.echo(json.dumps(whole, indent=1, ensure_ascii=False, default=str))
    elif form != "table":
        typer.echo(emit([whole], form))
    else:
        console = out()
        for part in parts(space, trial, whole):
            console.print(part)


def anew(metric: str, metrics: Mapping[str, Any]) -> str:
    """What was measured when the search was over: under other seeds where there were any."""
    from search.cli.format import figure

    found = metrics.get(f"{metric}_seeds", metrics.get(f"{metric}_again"))
    return "" if found is None else figure(metric, found)


def parts(space: Space, trial: Trial, whole: dict[str, Any]) -> list[RenderableType]:
    """One trial for people: how it ended, settings, measurements, rungs, traceback."""
    from rich.markup import escape

    from search.cli.format import compact, duration, figure, grid, interval, label, plain, shown
    from search.pareto.objectives import judged

    own = judged(space.objectives, space.constraints)
    facts = [("state", f"[{STATES[trial.state]}]{trial.state}[/]: {escape(trial.why)}"),
             ("rung", "-" if trial.rung is None else f"{trial.rung} of 0 to {len(space.rungs) - 1}, "
                                                     f"{trial.steps or 0} steps"),
             ("took", f"{duration(trial.seconds)}, {plain(trial.device_hours)} {trial.device}-hours"
                      + ("" if trial.money is None else f", {plain(trial.money)} money"))]
    facts += [("tag", escape(trial.tag))] if trial.tag else []
    facts += [("model", escape(shown(trial.artifact)))] if trial.artifact else []
    settings = [(path, escape(compact(value))) for path, value in trial.params.items()]
    names = [*dict.fromkeys(name for name in own if name in trial.metrics),
             *sorted(name for name in trial.metrics if name not in own)]
    measured = [(name, escape(interval(name, trial.metrics)), anew(name, trial.metrics)) for name in names
                if not name.endswith(ENDS) and trial.metrics[name] is not None]
    found: list[Any] = [f"[bold]trial {trial.number}[/]", grid(None, ("", ""), facts, header=False)]
    if settings:
        found += ["", grid("settings", ("", ""), settings, header=False)]
    if measured:
        again = any(row[2] for row in measured)
        found += ["", grid("measured", ("", "", "anew"), measured) if again
                  else grid("measured", ("", ""), [row[:2] for row in measured], header=False)]
    if len(trial.rungs) > 1:
        columns = ["steps", *dict.fromkeys(label(name) for name in own)]
        steps = [(str(count), *(figure(name, metrics.get(name)) for name in dict.fromkeys(own)))
                 for count, metrics in trial.rungs]
        found += ["", grid("rungs", columns, steps, right=columns)]
    return [*found, *(["", escape(whole["traceback"])] if whole["traceback"] else [])]
