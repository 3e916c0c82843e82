"""Reading text from files: what is missing or malformed is a `UserError` that names the file, the line and what is expected."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from spaces.errors import UserError


def existing_file(path: Path | str, expected: str) -> Path:
    """`path`, which must be a file that holds `expected`."""
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; expected {expected}")
    return path


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) for each line of a UTF-8 file, numbered from 1, without its line break."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from None


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the row's last line, row) for each row of a UTF-8 CSV file that must have `columns`, none of them cut off."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            held = reader.fieldnames or ()
            missing = [column for column in columns if column not in held]
            if missing:
                raise UserError(f"{path}: no column {', '.join(missing)}; expected a CSV file with the columns "
                                f"{', '.join(columns)}")
            for row in reader:
                short = [column for column in columns if row[column] is None]
                if short or None in row:
                    raise UserError(f"{path}, line {reader.line_num}: the row does not have {len(held)} columns; "
                                    f"expected {', '.join(held)}, with quotes around text that holds commas")
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: malformed CSV ({error})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from None


def held_out(keys: Sequence[str], share: float) -> list[bool]:
    """For each key whether it belongs to the held-out split: `share` of the distinct keys, at least one, not all.

    Chosen by hash, so that equal keys fall on one side and the choice does not depend on their order. One distinct key
    alone is not held out.
    """
    distinct = sorted(set(keys), key=lambda key: hashlib.blake2b(key.encode(), digest_size=8).digest())
    chosen = set(distinct[: min(max(1, round(share * len(distinct))), len(distinct) - 1)])
    return [key in chosen for key in keys]
