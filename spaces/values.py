"""Small helpers on JSON-like values: equality that YAML users expect, short display, and
close-match hints."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

_NUMBER = r"(?:\.[0-9]+|[0-9](?:_?[0-9])*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
PLAIN = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?[0-9](?:_?[0-9])*$"), list("-+0123456789")),
    ("float", re.compile(rf"^[-+]?{_NUMBER}$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"),
     list("-+.0123456789")),
)
"""What a word without quotes is where it is no text, by the core rules of YAML 1.2: kind, pattern,
first characters."""


def key(value: Any) -> Any:
    """A hashable form of a JSON value, equal for equal values: `1` equals `1.0`, `1` does
    not equal `true`."""
    if isinstance(value, bool) or value is None:
        return ("constant", value)
    if isinstance(value, (int, float)):
        return ("number", value)
    if isinstance(value, str):
        return ("text", value)
    if isinstance(value, (list, tuple)):
        return ("list", tuple(key(item) for item in value))
    return ("mapping", frozenset((name, key(item)) for name, item in value.items()))


def show(value: Any, limit: int = 80) -> str:
    """The value on one line, as it could stand in a space file; cut to `limit` characters. Text that
    would be read as something else, "1e-5", "null" or "[a]", keeps its quotes."""
    plain = isinstance(value, str) and value.isprintable() and not _other(value)
    return cut(value if plain else _flow(value), limit)


def cut(text: str, limit: int = 80) -> str:
    """At most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


_SIGNS = re.compile(r"^[\[\]{},#&*!|>'\"%@`]|^[-?:](?: |$)|^(?:---|\.\.\.)(?: |$)|: | #|:$|^ | $")
"""What begins or ends something else than text in YAML."""


def _other(text: str) -> bool:
    """Whether what stands without quotes would be read as another text, or as none."""
    return any(pattern.match(text) for _, pattern, _ in PLAIN) or bool(_SIGNS.search(text))


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    plain = (isinstance(value, str) and not value.startswith(":")  # which in a list begins a value
             and value.replace("_", "").replace(":", "").replace(".", "").isalnum())
    return value if plain and not _other(value) else json.dumps(value, ensure_ascii=False, default=str)


def dotted(parts: Iterable[str | int]) -> str:
    """Key path for messages: `search.lora.rank.choice[2]`."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() and part else json.dumps(part))
    return text


def did_you_mean(name: str, legal: Iterable[str]) -> str:
    """` (did you mean 'objectives'?)`, or nothing when no legal name is close."""
    options = list(legal)
    parts = [option
             for option in options if option.endswith(f".{name}") or name and option.startswith(f"{name}_")]
    found = difflib.get_close_matches(name, options, n=1) or parts[:1]
    return f" (did you mean {found[0]!r}?)" if found else ""
