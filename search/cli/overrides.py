"""What the commands ask of spaces: those that are shipped, and options as overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spaces.errors import UserError

if TYPE_CHECKING:
    from spaces.objectives import Constraint
    from spaces.schema import Space


def shipped() -> dict[str, Space]:
    """The spaces that come with the package, by name."""
    from spaces.loading import shipped as paths
    from spaces.schema import load

    return {name: load(path) for name, path in paths().items()}


def changes(assignments: Sequence[str], trials: int | None = None, budget: str | None = None, seed: int
            | None = None, deterministic: int | None = None, within: Sequence[str] = (),
            track: Sequence[str] = ()) -> dict[str, Any]:
    """`--set key=value` and the options that stand for a key, as overrides. Raises `UserError` for one
    given twice, and for a bound (`within`) that is none; bounds come on top of those of the space."""
    from spaces.overrides import add_named, parse

    found: dict[str, Any] = dict(parse(assignments))
    named = {"budget.trials": ("--trials", trials), "budget.time": ("--budget", budget),
             "seed": ("--seed", seed), "deterministic": ("--deterministic", deterministic),
             "track": ("--track", list(track) or None)}
    add_named(found, named, also="--set {key}")
    if within:
        found["constraints+"] = [*_as_list(found.get("constraints+")),
                                 *(str(bound) for bound in bounds(within))]
    return found


def bounds(texts: Sequence[str]) -> list[Constraint]:
    """`--within` as constraints. Raises `UserError` saying what is legal."""
    from spaces.objectives import Constraint

    try:
        return [Constraint.parse(text) for text in texts]
    except ValueError as error:
        raise UserError(f"--within: {error}") from None


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
