"""`qdlm front` and `qdlm status`: what a run has found, read from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from search.cli.arguments import AS_JSON, run_folder
from search.cli.choosing import check_bounds, chosen, chosen_by, left_out, nearest
from search.cli.examples import examples
from spaces.importing import importing

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.pareto.front import Front
    from search.records.events import RecordedEvent
    from search.records.run_folder import RunFolder
    from spaces.schema import Space

WIDE = 110
"""Columns from which the front is one table; below, settings are listed under it."""
MARKS = {"open": " [yellow]?[/]", "lost": " [red]x[/]"}
COLORS = {"finished": "green", "running": "cyan", "interrupted": "yellow", "failed": "red"}


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm front runs/NAME", "the trade-offs that were found",
        "qdlm front runs/NAME --within 'size_bytes <= 200kB' --best perplexity",
        "the best that can be afforded",
        "qdlm front runs/NAME --format csv > front.csv", "for a spreadsheet; also json, md",
    ))(front)
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm status runs/NAME", "how far it is, what failed and why",
        "watch -n 5 qdlm status runs/NAME", "from another terminal",
        "qdlm status runs/NAME --format json", "for programs",
    ))(status)


def front(
    run: Path = typer.Argument(help="A run: its folder or its URI.", metavar="RUN", show_default=False,
                               parser=run_folder),
    within: list[str] = typer.Option([], metavar="BOUND", show_default=False,
                                     help="What can be afforded, 'size_bytes <= 200kB'; may be given again."),
    best: str
    | None = typer.Option(None, metavar="METRIC", show_default=False,
                          help="Only the model that is best on that objective; knee: the most balanced one."),
    form: Literal["table", "csv", "json", "md"] = typer.Option("table",
                                                               "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
) -> int:
    """Print the Pareto front of a run: objectives with 95% intervals, what sets the members apart,
    where they lie."""
    form = "json" if as_json else form
    from rich.markup import escape

    from search.cli.format import command, emit, out, tell_edited
    from search.cli.overrides import bounds

    folder, space, found = opened(run)
    check_bounds(folder, bounds(within))
    found = found.within(bounds(within)) if within else found
    if best is not None:
        found = found.only(chosen(found, best))
    if form != "table":
        typer.echo(emit(members(folder, space, found), form))
    elif within and not len(found):
        out().print(nearest(folder, space, found))
    else:
        out().print(front_table(folder, space, found))
        tell_edited(folder)
        if best is not None and len(found):
            out().print(f"[dim]{escape(chosen_by(found))}[/]")
        if best is not None and (artifact := artifact_of(folder, found.members[0]) if len(found) else None):
            out().print(f"[cyan]{escape(command('generate', artifact))}[/]", soft_wrap=True)
    return 0 if len(found) or not (within or best) else 1


def status(
    run: Path = typer.Argument(help="A run: its folder or its URI.", metavar="RUN", show_default=False,
                               parser=run_folder),
    form: Literal["table", "json"] = typer.Option("table", "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
) -> None:
    """Print how far a run is: its state, its trials, its front, the last failures, and how to go on."""
    form = "json" if as_json else form
    import json
    import time
    from collections import Counter

    from rich.markup import escape

    from search.cli.format import command, duration, figure, grid, out, shown, tell_edited
    from search.cli.standing import cost_table, standing
    from search.engine.cost import Ledger
    from search.pareto.front import Front
    from search.pareto.reference_box import Box
    from search.pareto.stability import figure as figure_of
    from search.records.index import rows_among
    from search.reporting.corpora import corpus_lines

    folder, space, entries = looked_at(run)
    rows = rows_among(entries)
    found = Front.from_rows(rows, space.objectives, space.constraints)
    ended = {row["trial"]: row for row in rows if row.get("state") in ("complete", "stopped", "failed")}
    counts = Counter(row["state"] for row in ended.values())
    state = folder.state
    if form == "json":
        content = standing(folder, space, found, counts, entries)
        typer.echo(json.dumps(content, indent=1, default=str))
        return
    goal = space.budget.trials or space.size()
    why = folder.meta.get("reason")
    lines = [
        ("state", f"[{COLORS.get(state, 'default')}]{state}[/]" + (f": {escape(why)}" if why else "")),
        ("trials", f"{len(ended)}{f' of {goal}' if goal else ''}: " + ", ".join(
            f"{counts[name]} {name}" for name in ("complete", "stopped", "failed"))),
        ("front", f"{len(found)} members"),
    ]
    for objective in space.objectives:
        best = found.best(objective.metric)
        if best is not None:
            by = figure_of(best, objective.metric)
            value = figure(objective.metric, by.mean) + (f" ({by.of})" if by.of != "own" else "")
            lines.append((f"best {objective.metric}", f"{value}, trial {best['trial']}"))
    if folder.meta.get("box"):
        box = Box.of(folder.meta["box"], space.objectives)
        own, anew = found.hypervolume(box), found.trusted_hypervolume(box)
        told = f" ({own:.1%} as the search measured it)" if anew != own else ""
        lines.append(("hypervolume", f"{anew:.1%} of its box{told}"))
    lines += [("corpus", escape(line)) for line in corpus_lines(entries)]
    account = Ledger.from_events(entries, time.time() if state == "running" else None)
    lines.append(("time", duration(account.elapsed)))
    console = out()
    console.print(f"[bold]{escape(shown(folder.path))}[/]  {escape(space.description)}")
    console.print(grid(None, ("", ""), [(f"[dim]{name}[/]", text) for name, text in lines], header=False))
    console.print(cost_table(account, space), "")
    for row in [row for row in ended.values() if row["state"] == "failed"][-3:]:
        console.print(f"[red]trial {row['trial']} failed:[/] {escape(str(row.get('reason')))}")
    tell_edited(folder)
    if state in ("interrupted", "failed"):
        console.print(f"\nGo on with: [cyan]{escape(command('run', '--resume', shown(folder.path)))}[/]",
                      soft_wrap=True)


def recorded_space(run: Path) -> Space:
    """The space that a run recorded. Raises `UserError` when the folder is no run."""
    with importing():
        from search.records.run_folder import RunFolder
        from spaces.schema import Space

    return Space.from_yaml(*RunFolder.open(run).space_text())


def looked_at(run: Path) -> tuple[RunFolder, Space, list[RecordedEvent]]:
    """A run folder, its space and its entries as of now. Raises `UserError` when it is no run."""
    from search.records.run_folder import RunFolder

    space, folder = recorded_space(run), RunFolder.open(run)
    return folder, space, folder.entries()


def opened(run: Path) -> tuple[RunFolder, Space, Front]:
    """A run folder, its space and its front as of now. Raises `UserError` when it is no run."""
    from search.pareto.front import Front
    from search.records.run_folder import RunFolder

    space, folder = recorded_space(run), RunFolder.open(run)
    return folder, space, Front.from_rows(folder.row_views(), space.objectives, space.constraints)


def artifact_of(folder: RunFolder, row: Mapping[str, Any]) -> str | None:
    """Where a member's exported model lies, for people; None when it was not exported."""
    from search.cli.format import shown

    return shown(folder.path / row["artifact"]) if row.get("artifact") else None


def apart(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The `config.*` columns in which the rows differ; all of them for a single row."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key.startswith("config.")))
    return [key for key in keys if len(rows) == 1 or len({repr(row.get(key)) for row in rows}) > 1]


def members(folder: RunFolder, space: Space, found: Front) -> list[dict[str, Any]]:
    """The front for programs: trial, whether it held its place, by which figures it goes, objectives and
    constrained metrics with errors, repeats and intervals, config, artifact."""
    from search.pareto.front import figure_columns
    from search.pareto.objectives import judged
    from search.pareto.process_bounds import PROCESS, judged_by_bound

    metrics = dict.fromkeys(judged(space.objectives, found.constraints))
    rows = found.member_rows()
    known = {name for row in rows for name in row}
    metrics |= {"unk_share": None} if "unk_share" in known else {}  # stands beside perplexity
    if judged_by_bound(metrics) and PROCESS in known:
        metrics |= {PROCESS: None}  # of which process a bound is
    columns = [column for name in metrics
               for column in (*figure_columns(name), f"{name}_se", f"{name}_again_sd", f"{name}_seeds_sd")
               if column == name or column in known]
    config = [f"config.{path}" for path in space.dimensions]
    placed = [name for name in ("place", "figures") if name in known]
    return [{"trial": row["trial"], **{name: row.get(name) for name in [*placed, *columns, *config]},
             "artifact": artifact_of(folder, row)} for row in rows]


def real_text(space: Space, found: Front) -> dict[str, str]:
    """What held-out sentences themselves are given, by the metrics that say so in a column
    `METRIC_heldout`."""
    from search.cli.format import figure, label

    row = found.members[0]
    return {label(item.metric): figure(item.metric, row[f"{item.metric}_heldout"])
            for item in space.objectives if row.get(f"{item.metric}_heldout") is not None}


def front_table(folder: RunFolder, space: Space, found: Front) -> RenderableType:
    """The front for people. The best value of each objective is bold."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    from search.cli.format import (
        ARROWS,
        DOUBTFUL,
        ByWidth,
        compact,
        grid,
        interval,
        label,
        ranged,
        short_names,
        shown,
    )
    from search.pareto.process_bounds import mixed_bounds, processes
    from search.pareto.stability import figure as figure_of
    from search.pareto.stability import interval as repeated
    from search.reporting.corpora import unknown_line

    if not len(found):
        why = ("No member of the front held its place when it was measured anew." if found.candidates
               else "No complete trial is feasible yet: there is no front.")
        return Text.from_markup(f"[yellow]{why}[/]")
    varied = apart(found.members)
    names = short_names([f"config.{path}" for path in space.dimensions])
    best = {item.metric: figure_of(row, item.metric).mean for item in space.objectives
            if (row := found.best(item.metric)) is not None}
    columns = ["trial", *(f"{label(item.metric)} {ARROWS[item.direction]}" for item in space.objectives),
               "differs in"]
    rows, tight, settings = [], [], []
    for row, place in zip(found, found.stability, strict=True):
        cells, small, trial = [], [], f"{row['trial']}{MARKS.get(place or '', '')}"
        for item in space.objectives:
            is_best = place != "lost" and figure_of(row, item.metric).mean == best.get(item.metric)
            fresh = repeated(row, item.metric)
            if fresh is None:
                shown_value = f"[{'bold green' if is_best else 'default'}]{interval(item.metric, row)}[/]"
                cells.append(shown_value)
                small.append(shown_value)
                continue
            style, anew = "bold green" if is_best else "dim", ranged(item.metric, fresh.mean, fresh.half)
            cells.append(f"{interval(item.metric, row)}\n[{style}]{fresh.of} {anew}[/]")
            small.append(f"{interval(item.metric, row)}\n[{style}]({anew})[/]")
        differs = " ".join(f"{names[key]}={compact(row[key])}" for key in varied if row.get(key) is not None)
        rows.append((trial, *cells, f"[dim]{escape(differs)}[/]"))
        tight.append((trial, *small))
        settings.append((str(row["trial"]), f"[dim]{escape(differs)}[/]"))
    title = (f"Front: {len(found)} of {len(found.candidates)} complete trials"
             + (" within all bounds" if found.constraints else ""))
    narrow = Group(grid(title, columns[:-1], tight, right=columns[1:-1]), "",
                   grid(None, ("trial", "differs in"), settings))
    table = ByWidth(grid(title, columns, rows, right=columns[1:-1]), narrow, WIDE)
    spread = any(f"{item.metric}_se" in row for row in found for item in space.objectives)
    notes = ["[dim]↓ less is better, ↑ more is better, bold: "
             f"the best{', ±: 95% interval' if spread else ''}[/]"]
    if real := real_text(space, found):
        notes.append("[dim]real held-out text, for scale: "
                     f"{', '.join(f'{name} {value}' for name, value in real.items())}[/]")
    if mixed := mixed_bounds([*best, *(bound.metric for bound in found.constraints)], processes(found)):
        notes.append(f"[yellow]{escape(mixed)}[/]")
    if unknown := unknown_line(found):
        notes.append(f"[dim]UNK, a word outside the vocabulary, in generated text: {unknown}; "
                     "it helps no score[/]")
    if any("again" in row for row in found):
        notes.append("[dim]again, or in brackets: measured anew from the exported files, with fresh noise: "
                     "the figure to go by[/]")
    if any("seeds" in row for row in found):
        notes.append("[dim]seeds, or in brackets: trained anew at the full budget with other seeds: "
                     "the figure to go by[/]")
    for place, note in (("open", "[yellow]?[/] another member's new figures lie within this one's intervals"),
                        ("lost",
                         "[red]x[/] beaten by another member, or beyond a constraint, when measured anew")):
        if place in found.stability:
            notes.append(note)
    if any(DOUBTFUL in cell for line in rows for cell in line[:-1]):
        notes.append(f"[yellow]{DOUBTFUL}[/] the interval is wider than the value: measured too few times, "
                     "or on a busy machine")
    notes += [f"[dim]{escape(line)}[/]" for line in left_out(found)]
    if any(artifact_of(folder, row) for row in found):
        notes.append(f"[dim]exported models: {escape(shown(folder.path / 'artifacts' / 'trial-NNNN'))}[/]")
    return Group(table, "", *(Text.from_markup(note) for note in notes))


def next_steps(folder: RunFolder, found: Front, call: str | None = None) -> RenderableType:
    """Where the results lie, and commands to try, which run as they are printed. `call`: how this program
    is called where they are read, if not here."""
    from rich.markup import escape
    from rich.text import Text

    from search.cli.format import shown
    from spaces.shell import program, quoted

    call, run, knee = call or program(), shown(folder.path), found.knee()
    lines = ["", f"[bold]Results[/]  {escape(run)}/  [dim]front.csv, front.png, trials.parquet, space.yaml, "
                 "events.jsonl[/]", f"[bold]Next[/]     [cyan]{escape(f'{call} front {quoted(run)}')}[/]"]
    artifact = artifact_of(folder, knee) if knee is not None else None
    if artifact is not None:
        lines.append(f"         [cyan]{escape(f'{call} generate {quoted(artifact)}')}[/]  [dim]# the most "
                     "balanced member[/]")
    return Text.from_markup("\n".join(lines))
