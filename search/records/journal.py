"""An append-only file of JSON lines that survives a killed writer: what was acknowledged stays,
what is torn goes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spaces.errors import UserError

NONFINITE = "nonfinite"
"""Key under which a line keeps the names of values that JSON has no word for."""


def append_line(path: Path, entry: Mapping[str, Any], sync: bool = True) -> bytes:
    """Write one line and return it when the disk has it (without `sync`: when the system has it).

    A write that fails half-way is taken back before it raises.
    """
    line = (dumps(entry) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(handle).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(handle, line[written:])
            if sync:
                os.fsync(handle)
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)
    return line


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line. A torn last line is left out; a damaged line before it raises `UserError`."""
    return (entry for _, entry in parsed_lines(path, path.read_bytes()))


def parsed_lines(path: Path, content: bytes, first: int = 1) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Every whole line of what the file holds from line `first` on, without its newline, and its entry; as
    `read_lines`."""
    lines = content.split(b"\n")
    last = first + len(lines) - 2
    for number, line in enumerate(lines[:-1], start=first):  # what follows the last newline is torn, or empty
        try:
            entry = loads(line)
        except (ValueError, RecursionError):
            if number < last:
                raise UserError(f"{path}, line {number}: not a JSON record; the file was damaged after it "
                                "was written") from None
            continue
        yield line, entry


def mend_tail(path: Path) -> int:
    """Cut a torn last line (no newline, or not JSON) off the file, so that appending is safe.
    Returns the bytes cut.

    A file whose first line is whole and not JSON is something else, and is left alone.
    """
    content = path.read_bytes() if path.exists() else b""
    lines = content.splitlines(keepends=True)
    if len(lines) > 1 and not _is_json(lines[0]):
        return 0
    torn = 0
    if lines and not (lines[-1].endswith(b"\n") and _is_json(lines[-1])):
        torn = len(lines[-1])
        os.truncate(path, len(content) - torn)
    return torn


def dumps(entry: Mapping[str, Any]) -> str:
    """Strict JSON on one line. NaN and infinities become null and are named under `nonfinite`, so that
    `loads` gives them back. numpy numbers, paths and tuples become plain."""
    plain = _plain(entry)
    odd = {name: repr(value)
           for name, value in plain.items() if isinstance(value, float) and not math.isfinite(value)}
    if odd:
        plain = {**plain, **dict.fromkeys(odd), NONFINITE: odd}
    return json.dumps(_without_nonfinite(plain), ensure_ascii=False, allow_nan=False)


def loads(line: str | bytes) -> dict[str, Any]:
    """The entry of a line that `dumps` wrote. Raises ValueError when it is not a JSON object."""
    entry = json.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    if NONFINITE not in entry:
        return entry
    odd = entry.pop(NONFINITE)
    if not isinstance(odd, dict) or not all(isinstance(text, str) for text in odd.values()):
        raise ValueError(f"{NONFINITE} does not name numbers")
    return entry | {name: float(text) for name, text in odd.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    return str(value) if isinstance(value, os.PathLike) else value


def _without_nonfinite(value: Any) -> Any:
    """Nested NaN and infinities as null; only those at the top of an entry can be told apart again."""
    if isinstance(value, dict):
        return {name: _without_nonfinite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
