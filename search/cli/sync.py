"""`qdlm sync`: a run to an object store or another folder, and back."""

from __future__ import annotations

import json
from typing import Literal

import typer

from search.cli.arguments import AS_JSON
from search.cli.examples import examples


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(rich_help_panel="Search", epilog=examples(
        "qdlm sync runs/NAME s3://BUCKET/runs/NAME", "what is new there; while the run goes on or after",
        "qdlm sync s3://BUCKET/runs/NAME runs/NAME", "and back, to look at it or to go on with it",
    ))(sync)


def sync(
    source: str = typer.Argument(help="A run: a folder or a URI.", metavar="FROM", show_default=False),
    target: str = typer.Argument(help="Where to: a folder or a URI (s3://, gs://, hdfs://, file://).",
                                 metavar="TO", show_default=False),
    form: Literal["text", "json"] = typer.Option("text", "--format", help="For people or programs."),
    as_json: bool = AS_JSON,
) -> None:
    """Copy what is new of a run between folders and object stores. Credentials are those that
    pyarrow finds."""
    form = "json" if as_json else form
    from search.records.sync import sync as copied

    files, size = copied(source, target)
    typer.echo(json.dumps({"files": files, "bytes": size}) if form == "json"
               else f"{files} files, {size / 1e6:.1f} MB")
