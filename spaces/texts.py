"""Text files that people name, read up to a limit: a device or a wrong file fills no memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from spaces.errors import UserError


def read_text(path: Path, most: int, what: str) -> str:
    """The UTF-8 text of a file of at most `most` bytes, a byte-order mark left out and line ends as they are
    on Unix. Raises `UserError` where it is larger, or has no end; OSError and UnicodeDecodeError as
    `Path.read_text` does."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        size = f"{most >> 20} MB" if most >= 1 << 20 else f"{most:,} bytes"
        raise UserError(f"{path}: has more than {size}; is this {what}?")
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with what a terminal obeys (escapes and other control characters, changes of the direction of
    writing) written out as `\\x1b`; tabs and line ends stay."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_json(value: Any) -> str:
    """The value as JSON on one line in which the same characters are written out, as JSON does."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
