"""Whether an entry of events.jsonl, or run.json, is what this program writes: run folders are copied, merged
and edited by hand, and whatever reads them may then rely on their types.

Events and keys that are not known are passed over, as newer versions may write them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from search.records.events import RecordedEvent
from spaces.errors import UserError

STATES = ("rung", "complete", "stopped", "failed")
LARGEST = 2**53
"""Whole numbers that also a float holds."""


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST and math.isfinite(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int)


def _steps(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(rung, list) and len(rung) == 2 and _number(rung[0]) and _mapping(rung[1])
        and all(map(_measured, rung[1].values())) for rung in value)


def _measured(value: Any) -> bool:
    """What a row can hold: no whole number that is none of a float's."""
    return not isinstance(value, int) or isinstance(value, bool) or abs(value) < LARGEST


def checked(path: Path, line: int, entry: dict[str, Any]) -> RecordedEvent:
    """The entry that stands on a line of events.jsonl. Raises `UserError` where it is none."""
    problem = entry_problem(entry)
    if problem:
        raise UserError(f"{path}, line {line}: not a record of a run: {problem}; the file was edited or "
                        "damaged")
    return cast(RecordedEvent, entry)


KINDS = {_whole: "a whole number", _number: "a number", _text: "text", _mapping: "an object",
         _flag: "true or false", _count: "a whole number or a truth", _steps: "a list of [steps, metrics]",
         _texts: "a list of texts"}
ALWAYS = {"trial": _whole, "values": _mapping, "state": _text, "stage": _text, "traceback": _text}
"""Keys whose event is nothing without them."""
SOMETIMES = {
    "time": _number, "clock": _number, "rung": _whole, "tag": _text, "fidelity": _number, "seconds": _number,
    "device": _text, "seed": _whole, "versions": _text, "reason": _text, "groups": _whole, "path": _text,
    "detail": _text, "message": _text, "journal": _whole, "metrics": _mapping, "again": _count,
    "rungs": _steps, "at_most": _mapping, "artifact": _text, "progress": _number, "name": _text,
    "address": _text, "run": _text, "resumed": _flag,
}
NEEDS = {"row": ("trial", "state"), "run_started": (), "run_ended": (), "prepare": ("stage",),
         "ask": ("trial", "values"), "enqueue": ("values",), "learn": ("values", "state", "metrics"),
         "warning": (), "traceback": ("trial", "traceback")}


def entry_problem(entry: Mapping[str, Any]) -> str | None:
    """What is wrong with an entry, in a few words."""
    kind = entry.get("event")
    if not isinstance(kind, str):
        return "no event"
    for key in NEEDS.get(kind, ()):
        if key not in entry:
            return f"{kind} without {key}"
        if not (check := ALWAYS.get(key) or SOMETIMES[key])(entry[key]):
            return f"{key} is not {KINDS[check]}"
    if kind not in NEEDS:
        return None
    for key, check in SOMETIMES.items():
        if entry.get(key) is not None and not check(entry[key]):
            return f"{key} is not {KINDS[check]}"
    if kind == "row":
        if entry["state"] not in STATES:
            return f"state is not one of {', '.join(STATES)}"
        for key, value in entry.items():
            if type(value) is int and not _measured(value):
                return f"{key[:60]} is not a figure"
    return None


META_KEYS = {"name": _text, "state": _text, "started": _text, "ended": _text, "reason": _text,
             "versions": _text, "spent": _number, "groups": _whole, "columns": _mapping, "box": _mapping,
             "base": _mapping, "space_sha256": _text, "judged": _texts}


LEVELS = 100
"""Of run.json, most; it has a few. Python from 3.12 on reads thousands, which no function here can walk."""


def _deep(value: Any) -> bool:
    """Whether JSON has more than `LEVELS` levels."""
    level = [value]
    for _ in range(LEVELS):
        level = [item for one in level if isinstance(one, dict | list)
                 for item in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return False
    return True


def meta_problem(meta: Any) -> str | None:
    """What is wrong with the content of run.json, in a few words."""
    if not isinstance(meta, dict):
        return "not an object"
    if _deep(meta):
        return f"more than {LEVELS} levels"
    for key, check in META_KEYS.items():
        if meta.get(key) is not None and not check(meta[key]):
            return f"{key} is not {KINDS[check]}"
    for metric, corners in (meta.get("box") or {}).items():
        if not isinstance(corners, list) or len(corners) != 2 or not all(map(_number, corners)):
            return f"box of {metric[:60]} is not two numbers"
    for metric, value in (meta.get("base") or {}).items():
        if not _number(value) or not value > 0:
            return f"base: {metric[:60]} is not a number above 0"
    kinds = (meta.get("columns") or {}).values()
    if not all(_text(kind) and kind in COLUMN_TYPES for kind in kinds):
        return f"columns are not of the types {', '.join(COLUMN_TYPES)}"
    return None


COLUMN_TYPES = ("int64", "double", "string", "bool")
