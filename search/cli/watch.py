"""`qdlm watch` and `qdlm dashboard`: a run as it goes on, from another terminal, process or machine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from search.cli.arguments import run_folder
from search.cli.examples import examples
from spaces.errors import UserError
from spaces.uris import origin

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.cli.progress import EventText
    from search.records.follow import Tally
    from spaces.schema import Space

LINES = 8
FETCH_S = 3.0
"""Seconds at least between two looks at a URI."""


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm watch runs/NAME", "until it ends; Ctrl-C ends watching, not the run",
        "qdlm watch runs/NAME --once", "a glance",
    ))(watch)
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm dashboard runs/NAME", "the study in optuna-dashboard, on this machine only",
        "qdlm dashboard runs/NAME --port 9000", "at another port",
    ))(dashboard)


def watch(
    run: Path = typer.Argument(help="A run: its folder or its URI.", metavar="RUN", show_default=False,
                               parser=run_folder),
    every: float = typer.Option(1.0, metavar="SECONDS", min=0.1, help="How often to look."),
    once: bool = typer.Option(False, "--once", help="Show how it stands and leave."),
) -> None:
    """Follow a run that another process works on: what ended, the front so far, the pace.
    It changes nothing."""
    from rich.live import Live

    from search.cli.format import out
    from search.cli.progress import EventText
    from search.cli.results import recorded_space
    from search.records.follow import Tally, follow

    space, console = recorded_space(run), out()
    uri = origin(run)
    again = refreshed(uri) if uri else time.sleep
    tally, event_text = Tally(), EventText(space.objectives, remind=True)
    recent: deque[str] = deque(maxlen=LINES)
    screen = Live(console=console, auto_refresh=False) if console.is_terminal else None
    try:
        if screen is not None:
            screen.start()
        for batch in follow(run, max(every, FETCH_S) if uri else every, once, again):
            for entry in batch:
                tally.add(entry)
                line = line_of(entry, event_text, tally)
                recent.extend([line] if line else [])
                if line and screen is None and not once:
                    console.print(line, soft_wrap=True)
            if screen is not None:
                screen.update(run_panel(run, space, tally, list(recent)), refresh=True)
    except KeyboardInterrupt:
        return
    finally:
        if screen is not None:
            screen.stop()
    if screen is None:
        console.print(run_panel(run, space, tally, list(recent) if once else []))


def refreshed(uri: str) -> Callable[[float], None]:
    """Waiting, for a copy of a run at a URI: what is new there comes at the end."""
    from search.records.sync import fetch_run

    def wait(seconds: float) -> None:
        time.sleep(seconds)
        fetch_run(uri)

    return wait


def line_of(entry: Mapping[str, Any], event_text: EventText, tally: Tally) -> str | None:
    """An entry of the run's record as a line of text; None for what says nothing new."""
    kind = entry.get("event")
    at = {"elapsed": tally.worked.total}
    if kind == "row":
        settings = {name.removeprefix("config."): value for name, value in entry.items()
                    if name.startswith("config.") and value is not None}
        if entry.get("state") in ("complete", "stopped", "failed"):
            return event_text.line({**at, "event": "trial_finished", "metrics": entry, "values": settings,
                                    **_of(entry)})
        return event_text.line({**at, "event": "rung", "metrics": entry, **_of(entry)})
    if kind == "warning":
        return event_text.line({**at, "event": "warning",
                                "message": entry.get("message") or entry.get("detail")})
    return event_text.line({**entry, **at}) if kind in ("run_started", "prepare") else None


def _of(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("trial", "rung", "state", "reason")}


def run_panel(run: Path, space: Space, tally: Tally, recent: list[str]) -> RenderableType:
    """State, counts, pace and front of a run, with its last lines above."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    from search.cli.format import duration, shown
    from search.cli.results import COLORS, front_table
    from search.pareto.front import Front
    from search.records.run_folder import RunFolder

    folder, counts = RunFolder.open(run), tally.counts
    ended = sum(counts[state] for state in ("complete", "stopped", "failed"))
    spent = tally.worked.total
    goal = space.budget.trials or space.size()
    pace = f", {3600 * ended / spent:,.0f} trials an hour" if ended and spent else ""
    state = folder.state
    head = (f"[bold]{escape(shown(folder.path))}[/]  [{COLORS.get(state, 'default')}]{state}[/]  "
            f"{ended}{f' of {goal}' if goal else ''} trials ended ({counts['complete']} complete, "
            f"{counts['stopped']} stopped, {counts['failed']} failed), {duration(spent)}{pace}")
    front = Front.from_rows(tally.rows, space.objectives, space.constraints)
    return Group(*(Text.from_markup(line, overflow="ellipsis") for line in recent), "",
                 Text.from_markup(head), "", front_table(folder, space, front))


def dashboard(
    run: Path = typer.Argument(help="A run: its folder or its URI.", metavar="RUN", show_default=False,
                               parser=run_folder),
    port: int = typer.Option(8080, metavar="PORT", min=1, max=65535, help="Where it listens."),
    host: str = typer.Option("127.0.0.1", metavar="HOST", help="The page has no password: "
                             "beyond this machine, only behind a proxy that asks for one."),
) -> None:
    """Serve the run's Optuna study with optuna-dashboard, while the search goes on or after.
    Ctrl-C ends it."""
    from dashboards.optuna_server import serve
    from search.cli.format import shown
    from search.records.run_folder import STUDY, RunFolder

    journal = RunFolder.open(run).path / STUDY
    if not journal.is_file():
        raise UserError(f"{run}: no study yet: no {STUDY}")
    typer.echo(f"{shown(journal)} at http://{host}:{port}/  (Ctrl-C ends)")
    try:
        serve(journal, host, port)
    except KeyboardInterrupt:
        return
