"""Reading text from files: what is missing or malformed is a `UserError` that names the file,
the line and the way out.

Every reader takes UTF-8 and leaves out a byte-order mark.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import shlex
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from spaces.errors import UserError
from trainable.corpora.base import Split

Row = TypeVar("Row")


def existing_file(path: Path | str, expected: str) -> Path:
    """`path`, which must be a file that holds `expected`."""
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; expected {expected}")
    return path


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> UserError:
    """What to say of a file that cannot be read as UTF-8 text: the line, the byte, and a command
    that mends it."""
    if isinstance(error, OSError):
        return UserError(f"{path}: cannot be read ({error.strerror or type(error).__name__})")
    with path.open("rb") as file:
        head, at = file.read(4096), 0
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return UserError(f"{path}: cannot be read as UTF-8: it is UTF-16 text; write it anew: "
                             f"{_converted(path, 'UTF-16')}")
        if b"\0" in head:
            return UserError(f"{path}: cannot be read as UTF-8: it holds zero bytes, so it is no text")
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as fault:
                return UserError(
                    f"{path}, line {number}: cannot be read as UTF-8 (byte 0x{line[fault.start]:02X} at "
                    f"{at + fault.start:,}); if it is Latin-1, write it anew: {_converted(path, 'LATIN1')}")
            at += len(line)
    return UserError(f"{path}: cannot be read as UTF-8; if it is Latin-1, write it anew: "
                     f"{_converted(path, 'LATIN1')}")


def _converted(path: Path, encoding: str) -> str:
    target = path.with_name(f"{path.stem}.utf8{path.suffix}")
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(target))}"


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) for each line of a UTF-8 file, numbered from 1, without its line break, and without the
    byte-order marks that files which were joined have inside."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\n").removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None


def csv_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the row's last line, row) for each row of a UTF-8 CSV file that must have `columns`,
    none of them cut off."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or ())
            missing = [column for column in columns if column not in names]
            if missing:
                raise UserError(f"{path}: no column {', '.join(missing)} (found: "
                                f"{', '.join(names) or 'none'}); expected "
                                f"a CSV file with the columns {', '.join(columns)}")
            for row in reader:
                short = [column for column in names if row[column] is None]
                if short or None in row:
                    raise UserError(f"{path}, line {reader.line_num}: "
                                    f"the row does not have {len(names)} columns; "
                                    f"expected {', '.join(names)}, with quotes around text that holds commas")
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: malformed CSV ({error})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None


def held_out(keys: Sequence[str], share: float) -> list[bool]:
    """For each key whether it belongs to the held-out split: `share` of the distinct keys,
    at least one, not all.

    Chosen by hash, so that equal keys fall on one side and the choice does not depend on their order.
    One distinct key alone is not held out.
    """
    distinct = sorted(set(keys), key=lambda key: hashlib.blake2b(key.encode(), digest_size=8).digest())
    chosen = set(distinct[: min(max(1, round(share * len(distinct))), len(distinct) - 1)])
    return [key in chosen for key in keys]


def has_words(text: str) -> bool:
    """Whether a text has a character that is neither space nor control nor format (such as a zero-width
    space)."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def one_split(rows: Sequence[Row], key: Callable[[Row], str], share: float, split: Split, path: Path,
              remedy: str) -> Iterator[Row]:
    """The rows of one split of a single file, `share` of the distinct keys being held out. Rows whose key
    is empty hold no text: they are counted with the training split. Raises `UserError` where fewer than two
    keys are there to be split."""
    keys = [key(row) for row in rows]
    distinct = len({one for one in keys if one})
    if distinct < 2:
        raise UserError(
            f"{path}: {distinct} different text{'s' * (distinct != 1)} with words in {len(rows):,} "
            f"row{'s' * (len(rows) != 1)}, so none can be held out; expected at least 2, or {remedy}")
    chosen = iter(held_out([one for one in keys if one], share))
    for row, one in zip(rows, keys, strict=True):
        if (bool(one) and next(chosen)) == (split == "valid"):
            yield row
