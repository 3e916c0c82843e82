"""`python -m search.cli.docs` prints docs/cli.md: what `--help` says of every command, so that the page
cannot be wrong."""

from __future__ import annotations

import os
import sys

from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from search.cli.main import app_of

WIDTH = "100"


def page() -> str:
    """The page, in Markdown."""
    app, runner = app_of(), CliRunner(env={"COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb"})

    def shown(*words: str) -> str:
        text = runner.invoke(app, [*words, "--help"], prog_name="qdlm").stdout
        return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())

    blocks = ["# The qdlm command", "Written by `make docs` from `--help`.", f"```text\n{shown()}\n```"]
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name in group.commands:
        blocks.append(f"## qdlm {name}\n\n```text\n{shown(name)}\n```")
    return "\n\n".join(blocks)


if __name__ == "__main__":
    os.environ["COLUMNS"] = WIDTH
    sys.stdout.write(page() + "\n")
