"""`qdlm replay`: whether a run is what its space, its seed and its results make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import typer

from search.cli.arguments import AS_JSON, run_folder
from search.cli.examples import examples


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm replay runs/quickstart-...", "would the search propose the same again?",
    ))(replay)


def replay(
    run: Path = typer.Argument(help="The run: folder or URI.", metavar="RUN", show_default=False,
                               parser=run_folder),
    form: Literal["text", "json"] = typer.Option("text", "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
) -> None:
    """Check that a run's proposals come out again when a fresh searcher is told the same in the same
    order. Trains nothing.

    Exits 1 where a proposal differs: with other versions of the packages, or other code than the run had.
    """
    form = "json" if as_json else form
    from search.cli.format import shown
    from search.cli.results import recorded_space
    from search.records.run_folder import RunFolder
    from search.run.validation import problem
    from search.study.opening import replayed

    folder, space = RunFolder.open(run), recorded_space(run)
    found = replayed(space, problem(space), folder)
    if form == "json":
        typer.echo(json.dumps({"run": str(run), "same": found.same, "different": found.different,
                               "sampler": space.sampler.name, "seed": space.seed,
                               "versions": folder.meta.get("versions")}, indent=1, default=str))
        raise typer.Exit(0 if found.different is None else 1)
    what = f"{shown(run)}: {found.same} proposal{'' if found.same == 1 else 's'}"
    if found.different is None:
        typer.echo(f"{what}, all the same again (sampler {space.sampler.name}, seed {space.seed})")
        return
    typer.echo(f"{what} the same again, then {found.different}")
    typer.echo(f"the run was made with {folder.meta.get('versions') or 'unknown versions'}")
    raise typer.Exit(1)
