import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from search.pareto.front import Front
from search.pareto.table import column_types
from search.records.files import RunLock, replacing, write_text
from search.records.journal import append_line, dumps, loads, mend_tail, read_lines
from search.records.run_folder import RunFolder, by_trial_and_rung
from spaces.dimensions import Dimension
from spaces.errors import RunError, UserError
from spaces.objectives import Objective

OBJECTIVES = [Objective("loss", "minimize"), Objective("ok", "maximize")]


def row(trial, rung=0, state="rung", **more):
    return {"trial": trial, "rung": rung, "state": state, "seconds": 0.5, **more}


def plain(rows):
    return [{name: value for name, value in item.items() if name != "time"} for item in rows]


class VirtualClock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path / "runs", "toy", "name: toy\n", {"seed": 3}) as folder:
        yield folder


def test_a_new_run_has_what_makes_it_one(run):
    assert run.path.parent.name == "runs" and run.path.name.startswith("toy-20")
    assert (run.path / "space.yaml").read_text() == "name: toy\n"
    assert run.meta["state"] == "running" == run.state and run.meta["seed"] == 3 and run.meta["started"]
    assert run.rows() == []
    again = RunFolder.open(run.path)
    assert again.rows() == [] and again.is_live()


def test_two_runs_of_one_second_get_two_folders_and_names_are_made_safe(tmp_path):
    folders = [RunFolder.create(tmp_path, "../a b/c", "") for _ in range(3)]
    assert len({folder.path for folder in folders}) == 3
    assert all(folder.path.parent == tmp_path and folder.path.name.startswith("a-b-c-") for folder in folders)


def test_rows_come_back_as_they_went_in(run):
    first = row(0, **{"config.q": {"name": "fixed"}, "config.sites": ["a", "b"]}, loss=math.nan,
                ok=math.inf, x=None)
    run.append(first)
    run.append(row(np.int64(1), loss=np.float32(0.5), path=run.path, odd=-math.inf, deep={"x": math.nan}))
    back = plain(RunFolder.open(run.path).rows())
    assert math.isnan(back[0].pop("loss")) and math.isnan(first.pop("loss"))
    assert back[0] == first
    assert back[1] == row(1, loss=0.5, path=str(run.path), odd=-math.inf, deep={"x": None})
    for line in (run.path / "events.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_events_and_rows_share_the_file_in_order(run):
    run.event({"event": "prepare", "stage": "corpus", "progress": 0.5})
    run.append(row(0))
    run.event({"event": "run_finished"})
    assert [entry["event"] for entry in run.events()] == ["prepare", "row", "run_finished"]
    assert len(run.rows()) == 1
    with pytest.raises(AssertionError):
        run.event({"stage": "corpus"})


def test_a_row_is_synced_before_append_returns(run, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    append_line(run.path / "events.jsonl", row(0))
    assert synced == [(run.path / "events.jsonl").stat().st_size]


def test_a_write_that_fails_half_way_leaves_no_trace(run, monkeypatch):
    run.append(row(0))
    before, write = (run.path / "events.jsonl").read_bytes(), os.write
    calls = iter([lambda handle, data: write(handle, data[:7])])

    def full_disk(handle, data):
        step = next(calls, None)
        if step is None:
            raise OSError(28, "No space left on device")
        return step(handle, data)

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(RunError, match="cannot be written: No space left on device; make room, "
                                       "then go on with --resume"):
        run.append(row(1))
    monkeypatch.undo()
    assert (run.path / "events.jsonl").read_bytes() == before
    run.append(row(2))
    assert [item["trial"] for item in run.rows()] == [0, 2]


def test_every_acknowledged_row_survives_kill_9(tmp_path):
    script = textwrap.dedent(f"""
        import itertools, sys
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from search.records.run_folder import RunFolder
        run = RunFolder.create(Path({str(tmp_path)!r}), "killed", "name: toy")
        for trial in itertools.count():
            run.append({{"trial": trial, "rung": 0, "state": "complete", "filler": "x" * 2000}})
            print(trial, flush=True)
    """)
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while int(writer.stdout.readline()) < 30:
        pass
    (path,) = tmp_path.iterdir()
    assert RunFolder.open(path).state == "running"
    with pytest.raises(UserError, match=f"is being written by another process \\(process {writer.pid} on "):
        RunFolder.open(path).lock()
    writer.send_signal(signal.SIGKILL)
    acknowledged = max([30, *(int(line) for line in writer.stdout.read().split() if line.isdigit())])
    writer.wait()
    folder = RunFolder.open(path)
    assert folder.state == "interrupted"
    assert [item["trial"] for item in folder.rows()][:acknowledged + 1] == list(range(acknowledged + 1))
    with folder.lock():
        assert folder.state == "running"
        folder.append(row(10**6))
    table = pd.read_parquet(path / "trials.parquet")
    assert len(table) == len(folder.rows()) and table["trial"].max() == 10**6


@pytest.mark.parametrize("torn", [b'{"event": "row", "tri', b'{"event": "row"}', b"\0\0\0\0\n", b"\n"])
def test_a_torn_last_line_is_left_out_then_cut_off_with_a_warning(run, torn):
    run.append(row(0))
    run.close()
    events = run.path / "events.jsonl"
    whole = events.read_bytes()
    events.write_bytes(whole + torn)
    assert len(RunFolder.open(run.path).rows()) == 1
    assert events.read_bytes() == whole + torn, "a reader changes nothing"
    folder = RunFolder.open(run.path).lock()
    folder.append(row(1))
    assert [item["trial"] for item in folder.rows()] == [0, 1]
    warning = list(folder.events())[1]
    assert warning["event"] == "warning" and f"torn last line of {len(torn)} bytes" in warning["detail"]
    folder.close()


def test_damage_before_the_end_is_an_error_that_names_the_line(run):
    run.append(row(0))
    with (run.path / "events.jsonl").open("ab") as events:
        events.write(b"garbage\n")
    run.append(row(1))
    with pytest.raises(UserError, match=r"events.jsonl, line 2: not a JSON record"):
        RunFolder.open(run.path).rows()


def test_mending_leaves_other_files_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello\nworld")
    assert mend_tail(text) == 0 and text.read_text() == "hello\nworld"
    assert mend_tail(tmp_path / "nothing") == 0
    text.write_text("")
    assert mend_tail(text) == 0
    text.write_text("torn at once")
    assert mend_tail(text) == 12 and text.read_text() == ""
    assert list(read_lines(text)) == []


def test_one_writer_at_a_time_any_number_of_readers(run):
    with pytest.raises(UserError, match=f"is being written by another process \\(process {os.getpid()} on "):
        RunFolder.open(run.path).lock()
    reader = RunFolder.open(run.path)
    with pytest.raises(AssertionError, match="without its lock"):
        reader.append(row(0))
    run.close()
    assert RunFolder.open(run.path).state == "interrupted"
    reader.lock().append(row(0))
    assert reader.is_live() and len(run.rows()) == 1
    reader.close("finished")
    assert RunFolder.open(run.path).state == "finished" and RunFolder.open(run.path).meta["ended"]


def test_a_glance_at_the_lock_does_not_stand_in_a_writers_way(tmp_path):
    lock, other = RunLock(tmp_path / "lock"), RunLock(tmp_path / "lock")
    assert not other.is_held() and not (tmp_path / "lock").exists()
    lock.acquire()
    lock.acquire()
    assert other.is_held() and lock.is_held()
    lock.release()
    lock.release()
    assert not other.is_held()
    other.acquire(patience=0)


def test_what_is_not_a_run_is_refused(tmp_path, run):
    with pytest.raises(UserError, match="nowhere is not a run folder: no such folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a run folder: no space.yaml"):
        RunFolder.open(tmp_path)
    (run.path / "events.jsonl").unlink()
    with pytest.raises(UserError, match=r"is not a run folder: no events.jsonl"):
        RunFolder.open(run.path)
    (run.path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run.json: not JSON"):
        run.meta  # noqa: B018


def test_storage_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the storage .*file/runs: Not a directory"):
        RunFolder.create(tmp_path / "file" / "runs", "toy", "")


def test_a_run_that_cannot_be_begun_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("search.records.run_folder.write_text", refuse)
    with pytest.raises(UserError, match="cannot write to the storage .*: Read-only file system"):
        RunFolder.create(tmp_path, "toy", "")
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_one_row_per_trial_and_rung_and_types_that_stay(tmp_path):
    dimensions = {"q": Dimension(choice=["none", {"name": "fixed"}]), "lr": Dimension(log=[0.1, 1]),
                  "rank": Dimension(**{"int": [0, 8]}),
                  "late": Dimension(choice=["x", "y"], when={"q": ["none"]})}
    run = RunFolder.create(tmp_path, "toy", "", {"columns": column_types(dimensions)})
    run.append(row(1, loss=5, **{"config.q": "none", "config.lr": 1, "config.rank": 4}))
    run.write_parquet()
    first = pyarrow.parquet.read_schema(run.path / "trials.parquet")
    run.append(row(0, loss=7.5, seed=1, versions={"torch": "2"},
                   **{"config.q": {"name": "fixed"}, "config.lr": 0.5}))
    run.append(row(0, state="stopped", reason="dominated", note=[1, 2]))
    run.append(row(2, rung=None, state="failed", reason="no memory", **{"config.late": "y"}))
    run.append(row(1, rung=1, state="complete", loss=4.5, fidelity=300))
    run.close()
    table = pyarrow.parquet.read_table(run.path / "trials.parquet")
    assert [str(first.field(name).type) for name in sorted(dimensions) for name in [f"config.{name}"]] == [
        "string", "double", "string", "int64"]
    assert all(table.schema.field(field.name).type == field.type for field in first)
    frame = table.to_pandas()
    assert list(zip(frame["trial"], frame["rung"].fillna(-1), frame["state"], strict=True)) == [
        (0, 0, "stopped"), (1, 0, "rung"), (1, 1, "complete"), (2, -1, "failed")]
    assert frame["loss"].tolist()[:3] == [7.5, 5.0, 4.5] and table.schema.field("loss").type == "double"
    assert frame["config.q"][0] == '{"name": "fixed"}' and frame["versions"][0] == '{"torch": "2"}'
    assert frame["reason"].tolist()[0] == "dominated" and frame["note"][0] == "[1, 2]"
    assert {"trial", "rung", "state", "fidelity", "seconds", "seed", "versions", "reason"} <= set(frame)


def test_a_later_row_fills_in_and_overrides():
    assert by_trial_and_rung([row(0, loss=2.0, ok=1.0), row(0, state="failed", loss=None, reason="x")]) == [
        row(0, state="failed", loss=2.0, ok=1.0, reason="x")]


def test_the_table_is_rewritten_now_and_then_and_at_the_end(tmp_path):
    clock = VirtualClock()
    run = RunFolder.create(tmp_path, "toy", "", parquet_every=10.0, clock=clock)

    def kept():
        return len(pd.read_parquet(run.path / "trials.parquet"))

    run.append(row(0))
    assert kept() == 1
    clock.now += 9.0
    run.append(row(1))
    assert kept() == 1
    clock.now += 1.0
    run.append(row(2))
    assert kept() == 3
    run.append(row(3))
    assert kept() == 3
    run.close()
    assert kept() == 4
    run.close()


def test_a_replacement_that_fails_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_the_front_is_written_for_people_and_for_programs(run):
    for trial, (loss, ok) in enumerate([(1.0, 0.1), (2.0, 0.5), (3.0, 0.4)]):
        run.append(row(trial, state="complete", loss=loss, ok=ok, **{"config.q": {"name": "fixed"}}))
    run.update(box={"loss": [0.0, 4.0], "ok": [1.0, 0.0]})
    run.write_front(Front.from_rows(run.rows(), OBJECTIVES))
    table = pd.read_csv(run.path / "front.csv")
    assert table["trial"].tolist() == [0, 1] and table.columns[3:6].tolist() == ["figures", "loss", "ok"]
    summary = json.loads((run.path / "front.json").read_text())
    assert summary["hypervolume"] == pytest.approx((1 * 0.1 + 2 * 0.5) / 4) and summary["candidates"] == 3
    run.write_front(Front.from_rows([], OBJECTIVES))
    assert pd.read_csv(run.path / "front.csv").empty


def test_json_lines_are_strict_and_reversible():
    entry = {"a": math.inf, "b": [1, (2, np.arange(2))], "c": {"d": np.bool_(True)}, "e": "µ"}
    line = dumps(entry)
    assert "\n" not in line and "µ" in line
    assert loads(line) == {"a": math.inf, "b": [1, [2, [0, 1]]], "c": {"d": True}, "e": "µ"}
    with pytest.raises(ValueError, match="not a JSON object"):
        loads("[1]")


def test_a_torn_table_is_written_anew_from_the_events(run):
    for trial in range(3):
        run.append(row(trial, state="complete", loss=float(trial)))
    run.close()
    path = run.path / "trials.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    again = RunFolder.open(run.path).lock()
    assert [item["trial"] for item in again.rows()] == [0, 1, 2]
    again.close("finished")
    assert pd.read_parquet(path)["loss"].tolist() == [0.0, 1.0, 2.0]
