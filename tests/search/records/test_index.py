"""The index beside events.jsonl: it spares parsing, and is never believed over the log."""

import json

import numpy as np
import pytest

from search.records import index
from search.records.index import INDEX, IndexedEntry, rows_among
from search.records.run_folder import RunFolder
from spaces.errors import UserError

BOX = {"loss": [0.0, 1.0]}


@pytest.fixture
def run(tmp_path):
    """A run of two sessions, and an index of all of it."""
    with RunFolder.create(tmp_path, "toy", "name: toy\n", {"box": BOX}, parquet_every=1e9) as folder:
        folder.event({"event": "run_started", "groups": 2})
        for trial in range(3):
            folder.event({"event": "ask", "trial": trial, "values": {"x": trial}})
            folder.append({"trial": trial, "rung": 0, "state": "rung", "loss": np.float32(0.5), "note": "ü"})
        folder.append({"trial": 0, "rung": 1, "state": "complete", "loss": 1, "seconds": 2.0, "tag": None})
        folder.append({"trial": 1, "rung": None, "state": "failed", "loss": float("nan"), "deep": [1, {}]})
    with RunFolder.open(folder.path).lock() as again:
        again.append({"trial": 2, "rung": 1, "state": "stopped", "loss": 0.25})
    return again.path


def plain(entries):
    return json.dumps([dict(entry) for entry in entries])


def agrees(path):
    """How many entries were not parsed, after all were compared with the log."""
    folder = RunFolder.open(path)
    entries = folder.entries()
    assert plain(folder.entries()) == plain(folder.events())
    assert plain(entry.items() for entry in folder.entries()) == plain(folder.events())
    assert plain(rows_among(entries)) == plain(folder.rows())
    for found, wanted in zip(folder.entries(), folder.events(), strict=True):
        assert all(found.get(key, "none") == wanted.get(key, "none") and (key in found) == (key in wanted)
                   for key in ("event", "trial", "rung", "seconds", "tag", "clock", "values"))
    return sum(isinstance(entry, IndexedEntry) for entry in entries)


def test_indexed_entries_are_those_of_the_log_and_rows_of_no_more_than_is_judged_are_not_parsed(
        run, monkeypatch):
    assert agrees(run) == 9
    entries = RunFolder.open(run).entries()
    monkeypatch.setattr(index, "loads", lambda line: pytest.fail("parsed"))
    rows = rows_among(entries)
    assert [(row["trial"], row["state"]) for row in rows if row.get("state") != "rung"] == [
        (0, "complete"), (1, "failed"), (2, "stopped")]
    assert [row["loss"] for row in rows if row["trial"] != 1] == [0.5, 0.5, 1, 0.25]
    with pytest.raises(KeyError):
        monkeypatch.undo()
        rows[0]["event"]


def test_texts_of_rows_and_keys_that_none_has_are_told_without_parsing(run, monkeypatch):
    folder = RunFolder.open(run)
    assert plain(folder.row_views()) == plain(folder.rows())
    rows = folder.row_views()
    monkeypatch.setattr(index, "loads", lambda line: pytest.fail("parsed"))
    assert [row.get("note") for row in rows] == ["ü", "ü", "ü", None, None, None]
    assert [row.get("tag") for row in rows] == [None] * 6
    assert all(row.get("teacher", "none") == "none" and "teacher" not in row for row in rows)
    assert all("event" not in row and row.get("clock", 7) == 7 for row in rows)


def test_a_column_of_texts_and_numbers_is_asked_of_the_lines(tmp_path):
    with RunFolder.create(tmp_path, "toy", "name: toy\n", {"judged": ["loss"]}) as folder:
        for trial, value in enumerate(["a", None, 3, "b", float("nan")]):
            folder.append({"trial": trial, "state": "complete", "kind": value, "loss": 0.5,
                           **({"late": "x"} if trial == 3 else {})})
    rows = RunFolder.open(folder.path).row_views()
    assert [row.get("late", "none") for row in rows] == ["none", "none", "none", "x", "none"]
    assert repr([row.get("kind") for row in rows]) == "['a', None, 3, 'b', nan]"
    assert all(isinstance(row, IndexedEntry) for row in rows)


def damaged(run, how):
    log, beside = run / "events.jsonl", run / INDEX
    lines = log.read_bytes().splitlines(keepends=True)
    if how == "absent":
        beside.unlink()
    elif how == "cut":
        beside.write_bytes(beside.read_bytes()[:-40])
    elif how == "empty":
        beside.write_bytes(b"")
    elif how == "edited":
        beside.write_bytes(beside.read_bytes().replace(b'"stopped"', b'"failed"'))
    elif how == "the log cut":
        log.write_bytes(b"".join(lines[:5]))
    elif how == "the log edited":
        log.write_bytes(b"".join(lines).replace(b'"stopped"', b'"failed" '))
    elif how == "of another run":
        log.write_bytes(b"".join([*lines[:2], *lines[3:], lines[2]]))


@pytest.mark.parametrize("how", ["absent", "cut", "empty", "edited", "the log cut", "the log edited",
                                 "of another run"])
def test_an_index_that_is_not_of_this_log_is_passed_over(run, how):
    damaged(run, how)
    assert agrees(run) == 0


def test_what_was_written_after_the_index_is_parsed(run):
    with open(run / "events.jsonl", "ab") as log:
        log.write(b'{"event": "row", "trial": 3, "state": "complete", "loss": 0.1}\n{"event": "ro')
    assert agrees(run) == 9 and len(RunFolder.open(run).entries()) == 11
    assert plain(RunFolder.open(run).row_views()) == plain(RunFolder.open(run).rows())
    with open(run / "events.jsonl", "ab") as log:
        log.write(b'w"}\n{"event": "row", "trial": -1, "state": "complete"}\n')
    with pytest.raises(UserError, match="line 12: not a record of a run"):
        RunFolder.open(run).entries()


def test_a_line_that_is_no_record_ends_the_index_and_is_still_found(tmp_path):
    with RunFolder.create(tmp_path, "toy", "name: toy\n") as folder:
        folder.append({"trial": 0, "state": "complete"})
        folder.append({"trial": 0, "state": "complete", "huge": 2**60})
        folder.append({"trial": 1, "state": "complete"})
    with pytest.raises(UserError, match="line 2: not a record of a run: huge is not a figure"):
        RunFolder.open(folder.path).entries()
