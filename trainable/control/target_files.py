"""Files of control targets as released with Diffusion-LM: one JSON value per line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaces.errors import UserError
from spaces.texts import read_text
from trainable.corpora.sources import unreadable

MOST_BYTES = 64 << 20
"""Bytes of a target file that is read; the released ones are below one megabyte."""
MARKS = ("START", "END", "\n")
"""Entries of `words_` and `pos` that are no words: the released files keep them."""


@dataclass(frozen=True)
class Entry:
    """One line of a target file."""

    path: Path
    line: int
    value: Any

    @property
    def where(self) -> str:
        """`file, line 3`."""
        return f"{self.path}, line {self.line}"

    def get(self, key: str) -> Any:
        """A field of the line's object. Raises `UserError` where it is missing."""
        if not isinstance(self.value, dict) or key not in self.value:
            held = ", ".join(self.value) if isinstance(self.value, dict) else type(self.value).__name__
            raise UserError(f"{self.where}: no field {key!r} (found: {held})")
        return self.value[key]

    def strings(self, key: str) -> list[str]:
        """A field that is a list of strings."""
        value = self.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise UserError(f"{self.where}: {key} should be a list of words, not {json.dumps(value)[:60]}")
        return value

    def words(self, key: str = "words_") -> list[str]:
        """A field that is a text cut into words, without START, END and line breaks."""
        return [word for word in self.strings(key) if word not in MARKS]

    def fits(self, words: int, positions: int) -> None:
        """Raises `UserError` when a text of so many words does not fit into the model's positions."""
        if words > positions - 2:
            raise UserError(f"{self.where}: asks for {words} words, but corpus.max_length={positions} holds "
                            f"{positions - 2}; raise it or leave the line out")


def read_entries(path: Path) -> list[Entry]:
    """Every line that is not empty. Raises `UserError` naming the file, and the line that is no JSON."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, which may have no end
            raise UserError(f"{path}: is not a file; expected one JSON value per line")
        text = read_text(path, MOST_BYTES, "a target file")
    except UnicodeDecodeError as error:
        raise unreadable(path, error) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a target file ({error.strerror}); "
                        "expected one JSON value per line") from None
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                entries.append(Entry(path, number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not JSON ({str(error)[:100]})") from None
    if not entries:
        raise UserError(f"{path}: holds no targets; expected one JSON value per line")
    return entries
