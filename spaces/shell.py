"""How a command is written so that it runs when it is pasted into the shell that called this program."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def quoted(*words: object) -> str:
    """Words of a command, those in quotes that a shell would take apart."""
    return " ".join(shlex.quote(str(word)) for word in words)


def called(script: str) -> str:
    """A script of this Python environment as that shell calls it: by its name where the name finds it,
    else by its path, as from `.venv` when that was not activated. A script that is not there is left to be
    found by its name."""
    # of the environment: what its python is a link to has other scripts
    path = Path(sys.executable).with_name(script)
    found = shutil.which(script)
    if not path.is_file() or found and Path(found).absolute() == path.absolute():
        return script
    return _runnable(path)


def python() -> str:
    """This Python as that shell calls it."""
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and Path(found).absolute() == Path(sys.executable).absolute():
            return name
    return _runnable(Path(sys.executable))


def program() -> str:
    """This program as that shell calls it: `qdlm`, `.venv/bin/qdlm`, or `python -m search` where it
    was not installed."""
    return called("qdlm") if Path(sys.executable).with_name("qdlm").is_file() else f"{python()} -m search"


def extra_command(extra: str) -> str:
    """The command that installs an optional part of this program."""
    return f"{python()} -m pip install {quoted(f'qdlm[{extra}]')}"


def _runnable(path: Path) -> str:
    """The path of a program; one without a slash would be looked for elsewhere."""
    text = str(relative(path))
    return quoted(text if "/" in text else f"./{text}")


def relative(path: Path) -> Path:
    """A path below the working folder without that folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
