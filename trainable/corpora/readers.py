"""Texts from files of every common kind: plain lines, JSON, JSON lines, TSV, CSV and Parquet, by
the end of the name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from spaces.errors import UserError
from spaces.values import did_you_mean, show
from trainable.corpora.sources import csv_rows, text_lines, unreadable

Format = Literal["auto", "lines", "jsonl", "json", "tsv", "csv", "parquet"]
ENDS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".tsv": "tsv",
                           ".csv": "csv", ".parquet": "parquet"}
"""By the end of a file's name; every other file holds plain lines."""
KINDS = "a UTF-8 text file with one example per line, or a .jsonl, .json, .tsv, .csv or .parquet file"
USUAL = "text"
"""The column that is read where none is named."""
Text = tuple[str, str]
"""Where it stands, and the text; empty where the row has none."""


def texts(path: Path, column: str | None = None, form: Format = "auto") -> Iterator[Text]:
    """(file and row, text) of every row of a file; blank lines of plain text stand between texts
    and are left out.

    `column`: the column, or field of a JSON object, that holds the text; None: `text`, or the only one that
    holds text. A row of JSON may also be the text itself, or a list of it alone, as Diffusion-LM's files have
    it. Raises `UserError` naming file and row, and the columns that there are.
    """
    if form == "auto":
        form = ENDS.get(path.suffix.lower(), "lines")
        if form == "lines":
            _refuse_json(path)
    return _READERS[form](path, column)


def _lines(path: Path, column: str | None) -> Iterator[Text]:
    if column is not None:
        raise UserError(f"{path}: plain lines have no column {column!r}; leave column out, "
                        f"or say its format: {', '.join(ENDS.values())}")
    return ((f"{path}, line {number}", line) for number, line in text_lines(path) if line.strip())


def _refuse_json(path: Path) -> None:
    """A plain text whose first line is a JSON object or list is JSON lines under another name."""
    first = next((line for _, line in text_lines(path) if line.strip()), "")
    if first.lstrip()[:1] not in ("{", "["):
        return
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict) or isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        raise UserError(f"{path}: its first line is JSON, not text; name it .jsonl, or give format: jsonl "
                        "(format: lines reads it as it stands)")


def _json_lines(path: Path, column: str | None) -> Iterator[Text]:
    def values() -> Iterator[tuple[str, Any]]:
        for number, line in text_lines(path):
            if line.strip():
                try:
                    yield f"{path}, line {number}", json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number}: not JSON ({str(error)[:100]})") from None

    return _of_values(path, values(), column)


def _json(path: Path, column: str | None) -> Iterator[Text]:
    """One list of rows; else a row on each line."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    except (ValueError, RecursionError):
        return _json_lines(path, column)
    rows = value if isinstance(value, list) and not _is_line(value) else [value]
    return _of_values(path, ((f"{path}, row {i}", row) for i, row in enumerate(rows, 1)), column)


def _is_line(value: list) -> bool:
    """Whether a list is one row, `["text"]`, and not a list of rows."""
    return len(value) == 1 and isinstance(value[0], str)


def _of_values(path: Path, values: Iterator[tuple[str, Any]], column: str | None) -> Iterator[Text]:
    name: str | None = None
    for where, value in values:
        if isinstance(value, dict):
            if name is None:
                name = _column(path, list(value),
                               [key for key, item in value.items() if isinstance(item, str)], column)
            value = value.get(name)
        elif isinstance(value, list) and len(value) == 1:
            value = value[0]
        yield where, _text(where, value, name)


def _column(path: Path, names: Sequence[str], text: Sequence[str], column: str | None) -> str:
    """The name of the column that holds the text: the one asked for, the usual one, or the only one."""
    if column is not None:
        if column not in names:
            raise UserError(f"{path}: no column {column!r}{did_you_mean(column, names)}; found: "
                            f"{', '.join(names) or 'none'}")
        return column
    if USUAL in names or len(text) == 1:
        return USUAL if USUAL in names else text[0]
    raise UserError(f"{path}: which column holds the text? give column: "
                    f"one of {', '.join(text or names) or 'none found'}")


def _text(where: str, value: Any, name: str | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {name or 'the row'} is {show(value, 60)}, which is no text")
    return value


def _tsv(path: Path, column: str | None) -> Iterator[Text]:
    """A line of names, then lines of as many fields, tabs between them (IANA's text/tab-separated-values)."""
    name: int | None = None
    for number, line in text_lines(path):
        fields = line.split("\t")
        if name is None:
            name = fields.index(_column(path, fields, fields, column))
        elif line.strip():
            yield f"{path}, line {number}", _unquoted(fields[name]) if name < len(fields) else ""


def _unquoted(field: str) -> str:
    """A field that its writer put in quotes, as pandas does, without them."""
    inner = field[1:-1]
    quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else field


def _csv(path: Path, column: str | None) -> Iterator[Text]:
    name: str | None = None
    for number, row in csv_rows(path):
        name = name or _column(path, list(row), list(row), column)
        yield f"{path}, line {number}", row[name]


def _parquet(path: Path, column: str | None) -> Iterator[Text]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            kinds: Mapping[str, pa.DataType] = {field.name: field.type for field in file.schema_arrow}
            text = [name for name, kind in kinds.items()
                    if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
            name = _column(path, list(kinds), text, column)
            for batch in file.iter_batches(columns=[name]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield f"{path}, row {number}", _text(f"{path}, row {number}", value, name)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())[:120]})") from None


_READERS: dict[str, Callable[[Path, str | None], Iterator[Text]]] = {
    "lines": _lines, "jsonl": _json_lines, "json": _json, "tsv": _tsv, "csv": _csv, "parquet": _parquet}
