"""Turns what went wrong into one line: `FILE:LINE: key.path: what is wrong; legal: ...`."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from spaces.errors import UserError
from spaces.values import did_you_mean, dotted, show

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Complaints:
    """Where a space came from, so that an error can name the file and the line."""

    source: str = "space"
    lines: dict[Path, int] = field(default_factory=dict)
    overrides: tuple[tuple[Path, str], ...] = ()

    def error(self, path: Path, message: str) -> UserError:
        """The error to raise for the key at `path`: names the override that set it, else the
        line of the file."""
        line = next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)
        given = next((text for key, text in self.overrides if path and key[: len(path)] == path[: len(key)]),
                     None)
        where = f"{self.source}, --set {given}" if given else f"{self.source}:{line}" if line else self.source
        text = f"{where}: {dotted(path)}: {message}" if path else f"{where}: {message}"
        return UserError(" ".join(text.split()))

    def invalid(self, error: ValidationError, model: type[BaseModel], prefix: Path = ()) -> UserError:
        """The error to raise for what pydantic found: misspelled keys first, as they cause the others."""
        found = error.errors(include_url=False)
        first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
        path = tuple(first["loc"])
        if first["type"] == "extra_forbidden":
            legal = _keys(model, path[:-1])
            return self.error(prefix + path,
                              f"unknown key{did_you_mean(str(path[-1]), legal)}; legal: {', '.join(legal)}")
        return self.error(prefix + path, meaning(first) + _wanted(first, model))


def meaning(problem: ErrorDetails) -> str:
    """A pydantic error as a clause that follows a key: `should be greater than or equal to 1, not 0`."""
    kind, given = problem["type"], problem.get("input")
    if kind == "missing":
        return "is missing"
    if kind == "too_short":
        return f"is empty; give at least {problem['ctx']['min_length']}"
    if kind in ("value_error", "assertion_error"):
        return problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"should be a mapping of keys to values, not {show(given)}"
    text = problem["msg"].removeprefix("Input ").removeprefix("String ")
    text = text.replace("valid array", "list").replace("valid tuple", "list")
    text = text.replace("valid string", "text").replace("a valid integer", "a whole number")
    hint = ""
    if kind == "literal_error" and isinstance(given, str):
        hint = did_you_mean(given,
                            problem["ctx"]["expected"].replace("' or '", "', '").strip("'").split("', '"))
    return f"{text[0].lower()}{text[1:]}, not {show(given)}{hint}"


def _wanted(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """What a missing top key is for."""
    field = model.model_fields.get(str(problem["loc"][0])) if problem["type"] == "missing" else None
    return f"; legal: {field.description}" if field is not None and field.description else ""


def _keys(model: type[BaseModel], path: Path) -> list[str]:
    """Legal keys of the mapping at `path` inside `model`."""
    annotation: Any = model
    for part in path:
        fields = getattr(annotation, "model_fields", None)
        if fields is not None and isinstance(part, str):
            by_key = {item.alias or name: item for name, item in fields.items()}
            annotation = by_key[part].annotation if part in by_key else None
        else:
            annotation = next((item for item in typing.get_args(annotation)[::-1] if isinstance(item, type)),
                              None)
        if typing.get_origin(annotation) not in (None, dict, tuple, list):
            annotation = next((a for a in typing.get_args(annotation) if a is not type(None)), None)
    fields = getattr(annotation, "model_fields", {})
    return [item.alias or name for name, item in fields.items()]
