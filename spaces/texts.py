"""Text files that people name, read up to a limit: a device or a wrong file fills no memory."""

from __future__ import annotations

from pathlib import Path

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
