"""Texts from files of every kind: the same texts whatever the file, a byte-order mark nowhere, and one line
for what is wrong."""

import codecs
import csv
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.control.target_files import read_entries
from trainable.corpora.readers import ENDS, texts
from trainable.registry import CORPORA

ROWS = ["The mill is cheap .", 'She said " no , "  and left .', "Ünal's café costs £ 5 ."]


def write(path: Path, rows, column="text") -> Path:
    """The rows in the format that the end of the name says; a None is a null, or an empty cell where
    there are none."""
    kind = path.suffix
    if kind == ".jsonl":
        path.write_text("".join(json.dumps({"id": 1, column: row}) + "\n" for row in rows), encoding="utf-8")
    elif kind == ".json":
        path.write_text(json.dumps([{"id": 1, column: row} for row in rows]), encoding="utf-8")
    elif kind == ".parquet":
        pq.write_table(pa.table({"id": pa.array([1] * len(rows)), column: pa.array(rows, pa.string())}), path)
    elif kind == ".tsv":
        cells = [f"1\t{'' if row is None else row}\n" for row in rows]
        path.write_text(f"id\t{column}\n" + "".join(cells), encoding="utf-8")
    elif kind == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["id", column], *([1, row or ""] for row in rows)])
    else:
        path.write_text("".join(f"{row or ''}\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **given) -> list[str]:
    return [text for _, text in texts(path, **given)]


def refusal(path: Path, **given) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **given)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("end", [".txt", *ENDS])
def test_the_same_texts_from_every_kind_of_file(tmp_path, end):
    if end == ".ndjson":
        path = write(tmp_path / "a.jsonl", ROWS).rename(tmp_path / "a.ndjson")
    else:
        path = write(tmp_path / f"a{end}", ROWS)
    assert read(path) == ROWS
    places = [where for where, _ in texts(path)]
    assert len(set(places)) == 3 and all(str(path) in place for place in places)


@pytest.mark.parametrize("end", [".txt", ".jsonl", ".json", ".tsv", ".csv"])
def test_a_byte_order_mark_is_in_no_word_and_no_field_name(tmp_path, end):
    path = write(tmp_path / f"a{end}", ROWS)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert read(path) == ROWS


def test_a_byte_order_mark_inside_of_joined_files_is_in_no_word(tmp_path):
    path = write(tmp_path / "a.txt", ROWS)
    path.write_bytes((codecs.BOM_UTF8 + path.read_bytes()) * 2)
    assert read(path) == ROWS * 2


def test_no_reader_of_text_keeps_a_byte_order_mark(tmp_path):
    for name in ("src1_train.txt", "src1_valid.txt"):
        (tmp_path / name).write_bytes(codecs.BOM_UTF8 + b"name : Aromi||Aromi is cheap .\n")
    example = next(CORPORA.build(PluginRef(name="e2e", path=str(tmp_path))).examples("train"))
    assert example.fields == {"name": "Aromi"} and example.words[0] == "Aromi"
    (tmp_path / "targets.json").write_bytes(codecs.BOM_UTF8 + b'["food", ":", "thai"]\n')
    assert read_entries(tmp_path / "targets.json")[0].value == ["food", ":", "thai"]


def test_a_byte_order_mark_changes_the_key_of_the_cache(tmp_path):
    """An older cache has it in its first word."""
    path = write(tmp_path / "a.txt", ROWS)
    source = CORPORA.build(PluginRef(name="lines", path=str(path)))
    plain = source.fingerprint()
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    marked = source.fingerprint()
    assert marked != plain


@pytest.mark.parametrize("end", [".jsonl", ".json", ".parquet", ".tsv", ".csv"])
def test_the_text_column_is_named_and_the_columns_found_are_told(tmp_path, end):
    path = write(tmp_path / f"a{end}", ROWS, column="review")
    assert read(path, column="review") == ROWS
    assert "no column 'reviews' (did you mean 'review'?); found: id, review" in refusal(path,
                                                                                        column="reviews")
    if end in (".tsv", ".csv"):
        assert "which column holds the text? give column: one of id, review" in refusal(path)
    else:
        assert read(path) == ROWS, "the only column that holds text"


@pytest.mark.parametrize("end", [".jsonl", ".json", ".parquet", ".tsv", ".csv"])
def test_nulls_are_rows_without_text(tmp_path, end):
    assert read(write(tmp_path / f"a{end}", ["a b", None, "", "c"])) == ["a b", "", "", "c"]


def test_json_rows_may_be_texts_or_lists_of_one_as_diffusion_lm_has_them(tmp_path):
    (tmp_path / "roc_train.json").write_text('["Ann has a cat . It ran ."]\n["Bob came ."]\n')
    assert read(tmp_path / "roc_train.json") == ["Ann has a cat . It ran .", "Bob came ."]
    (tmp_path / "a.json").write_text('["Ann has a cat .", "Bob came ."]')
    assert read(tmp_path / "a.json") == ["Ann has a cat .", "Bob came ."]
    (tmp_path / "a.jsonl").write_text('"Ann has a cat ."\n\n{"text": "Bob came ."}\n{"other": 1}\n')
    assert read(tmp_path / "a.jsonl") == ["Ann has a cat .", "Bob came .", ""]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    ("a.jsonl", '{"text": "a"}\n{"text": 5}\n', "line 2: text is 5, which is no text"),
    ("a.jsonl", '["a", "b"]\n', "line 1: the row is [a, b], which is no text"),
    ("a.json", "[1, 2]", "row 1: the row is 1"),
    ("a.jsonl", '{"text": "a"}\n' + "[" * 100_000, "line 2: not JSON ("),
    ("a.json", "[" * 100_000, "line 1: not JSON"),
    ("a.json", "{", "line 1: not JSON"), ("a.parquet", "PAR1 no", "cannot be read as Parquet"),
    ("a.csv", "id,text\n1\n", "line 2: the row does not have 2 columns"),
    ("a.txt", '{"text": "a b"}\n', "its first line is JSON, not text; name it .jsonl, or give format: jsonl"),
    ("a.txt", '["a b"]\n', "its first line is JSON"),
])
def test_what_is_wrong_is_one_line_with_file_and_row(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    assert message in refusal(path)


def test_a_format_may_be_named(tmp_path):
    write(tmp_path / "a.jsonl", ROWS).rename(tmp_path / "a.txt")
    assert read(tmp_path / "a.txt", form="jsonl") == ROWS
    assert len(read(tmp_path / "a.txt", form="lines")) == 3
    assert "plain lines have no column 'text'" in refusal(write(tmp_path / "b.txt", ROWS), column="text")
    (tmp_path / "c.txt").write_text("[ it rained . ]\n{ a set }\n")
    assert read(tmp_path / "c.txt") == ["[ it rained . ]", "{ a set }"], "brackets are no JSON"


def test_a_tsv_by_pandas_loses_its_quotes_and_one_without_them_keeps_its_own(tmp_path):
    rows = ['He said "no"', "a\tb", 'plain "x" y', '"quoted" at first']
    pd.DataFrame({"n": range(4), "text": rows}).to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    assert read(tmp_path / "a.tsv")[0] == rows[0] and read(tmp_path / "a.tsv")[2:] == rows[2:]
    (tmp_path / "b.tsv").write_text('text\tn\n"Yes , " he said\t1\n')
    assert read(tmp_path / "b.tsv") == ['"Yes , " he said']


@given(st.lists(st.text(st.characters(exclude_categories=("C", "Z")),
                        min_size=1).map(lambda text: f"w {text}"), min_size=1, max_size=8))
def test_any_text_comes_back_from_any_file(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    for end in (".txt", ".jsonl", ".json", ".parquet", ".tsv", ".csv"):
        assert read(write(folder / f"a{end}", rows)) == rows


@pytest.mark.parametrize("end", [".jsonl", ".json", ".parquet", ".tsv", ".csv"])
def test_the_corpus_lines_reads_them_and_holds_out_a_part(tmp_path, end):
    path = write(tmp_path / f"a{end}", [f"text number {i}" for i in range(40)] + [None] * 3, column="body")
    made = CORPORA.build(PluginRef(name="lines", path=str(path), column="body", valid_share=0.25))
    train, valid = ([" ".join(one.words) for one in made.examples(split)] for split in ("train", "valid"))
    assert (len(valid), len([text for text in train if text]), train.count("")) == (10, 30, 3)
    assert not set(train) & set(valid)
