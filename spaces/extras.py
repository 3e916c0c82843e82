"""What an exported model does without, and what is said where it is needed all the same."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from spaces.errors import UserError
from spaces.shell import extra_command

SEARCH = ("datasets", "greenlet", "optuna", "pandas", "plotly", "pyarrow", "ray", "scipy", "sklearn", "spacy",
          "threadpoolctl")
"""The modules of `qdlm[search]`."""


def check(names: Sequence[str] = SEARCH) -> None:
    """Raises `UserError` where one of these modules is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise _needed(missing)


def of_search(error: ModuleNotFoundError) -> UserError | None:
    """What to say of a module that was not found, where `qdlm[search]` brings it. A missing part of a
    package that is there (`ray.nothing`) is none of those: it is a bug."""
    package = (error.name or "").partition(".")[0]
    return _needed([package]) if package in SEARCH and find_spec(package) is None else None


def _needed(names: list[str]) -> UserError:
    several = len(names) > 1
    return UserError(f"{', '.join(names)}: not installed; {'they come' if several else 'it comes'} with the "
                     f"search, which an exported model does without; run: {extra_command('search')}")
