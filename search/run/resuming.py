"""What a run may go on with: its recorded space, and of what is asked only another budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.run.validation import check
from spaces.errors import UserError
from spaces.schema import Space


def resumed(recorded: Space, run: str, given: Space | None = None, changes: Mapping[str, Any] | None = None,
            label: str | None = None) -> Space:
    """The space with which the run that recorded `recorded` goes on. `given`: one that must agree with it,
    called `label` in messages; `changes` as by `--set`.

    Raises `UserError`. The budget may differ from the recorded one: a run may be given more.
    """
    if given is not None:
        agree(given, recorded, f"{label or 'the space given'} does not agree with the run {run}")
    asked = recorded.with_overrides(changes) if changes else recorded
    agree(asked, recorded, f"the run {run} cannot go on with other settings")
    check(asked)
    return asked


def agree(space: Space, recorded: Space, complaint: str) -> None:
    """Raises `UserError` naming the first difference that a resumed run cannot have."""
    found = space.difference(recorded)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{complaint}: {found[0]}{more}; only the budget may change")
