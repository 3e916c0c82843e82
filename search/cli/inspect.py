"""`qdlm spaces` and `qdlm doctor`: what there is to search, and what there is to run it on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import typer

from search.cli.arguments import AS_JSON
from search.cli.examples import examples

if TYPE_CHECKING:
    from spaces.schema import Space


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Look around", epilog=examples(
        "qdlm spaces", "what is shipped", "qdlm run quickstart", "a shipped space by its name",
    ))(spaces)
    app.command(rich_help_panel="Look around", epilog=examples(
        "qdlm doctor", "this machine", "qdlm doctor --storage /mnt/shared/runs", "may runs be written there?",
        "qdlm doctor --storage s3://BUCKET/runs", "or there, with this machine's credentials?",
    ))(doctor)


def spaces(
    form: Literal["table", "json"] = typer.Option("table", "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
) -> None:
    """List the search spaces that are shipped: what each is for, its size and its objectives."""
    form = "json" if as_json else form
    from rich.markup import escape

    from search.cli.format import ARROWS, command, grid, out
    from search.cli.overrides import shipped

    rows = []
    if form == "json":
        typer.echo(json.dumps([described(name, space) for name, space in shipped().items()], indent=1))
        return
    for name, space in shipped().items():
        size = space.size()
        aims = ", ".join(f"{ARROWS[aim.direction]} {aim.metric}" for aim in space.objectives)
        bounds = "".join(f"; {bound}" for bound in space.constraints)
        points = "infinite" if size is None else f"{size:,} points"
        rows.append((f"[bold cyan]{name}[/]", space.description,
                     f"{len(space.dimensions)} dimensions, {points}", aims + bounds))
    console = out()
    console.print(grid(None, ("space", "what for", "size", "objectives"), rows))
    console.print(f"\nRun one by its name or its file: [cyan]{escape(command('run', 'quickstart'))}[/]",
                  soft_wrap=True)


def described(name: str, space: Space) -> dict[str, Any]:
    """A space for programs; `size` is None where it is infinite."""
    return {"name": name, "description": space.description, "dimensions": list(space.dimensions),
            "size": space.size(), "objectives": {aim.metric: aim.direction for aim in space.objectives},
            "constraints": [str(bound) for bound in space.constraints]}


def doctor(
    storage: str = typer.Option("runs", metavar="DIR|URI", help="Where runs are to be written."),
    form: Literal["table", "json"] = typer.Option("table", "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
) -> None:
    """Report versions, devices, room and what optional parts are missing. Connects to a storage URI
    alone; always exits 0."""
    from dataclasses import asdict

    from rich.markup import escape

    from search.cli.doctor import BAD, NOTE, findings
    from search.cli.format import grid, out

    report = findings(storage)
    if as_json or form == "json":
        typer.echo(json.dumps([asdict(finding) for finding in report], indent=1))
        return
    marks = {BAD: "[bold red]x[/]", NOTE: "[yellow]![/]"}
    seen: set[str] = set()
    rows = []
    for finding in report:
        title = "" if finding.section in seen else finding.section
        seen.add(finding.section)
        mark = marks.get(finding.status, "[green]+[/]")
        rows.append((f"[dim]{title}[/]", mark, finding.name, escape(finding.detail)))
    console = out()
    console.print(grid(None, ("", "", "", ""), rows, header=False))
    remedies = [finding for finding in report if finding.remedy]
    if remedies:
        console.print("\nTo get what is not there:")
    for finding in remedies:  # below the table, whose cells would break them
        console.print(f"  [cyan]{escape(finding.remedy)}[/]  [dim]# {escape(finding.name)}[/]",
                      soft_wrap=True)
    broken = [finding.name for finding in report if finding.status == BAD]
    verdict = (f"[bold red]A run would fail:[/] {', '.join(broken)}" if broken
               else "[bold green]Ready to run.[/]")
    console.print(f"\n{verdict}")
