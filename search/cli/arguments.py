"""Arguments that commands share. A run or an exported model is a folder, or a URI, of which a copy is
fetched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from spaces.errors import UserError
from spaces.uris import is_uri

Found = TypeVar("Found")
AS_JSON = typer.Option(False, "--json", help="The same as --format json.")
"""Of every command with `--format`."""


def run_folder(place: str) -> Path:
    """The folder of a run, to be read."""
    if not _argument(lambda place, say: is_uri(place), place):
        return Path(place)
    from search.records.sync import fetch_run

    return _argument(fetch_run, place)


def artifact_folder(place: str) -> Path:
    """The folder of an exported model."""
    if not _argument(lambda place, say: is_uri(place), place):
        return Path(place)
    from search.records.sync import fetch_artifact

    return _argument(fetch_artifact, place)


def _argument(find: Callable[[str, Callable[[str], None]], Found], place: str) -> Found:
    """What `find` finds; typer would put words of its own around a `UserError`."""
    try:
        return find(place, say)
    except UserError as error:
        raise typer.BadParameter(str(error)) from error


def say(text: str) -> None:
    """One line on standard error."""
    print(f"qdlm: {text}", file=sys.stderr)
