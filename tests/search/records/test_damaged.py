"""Run folders that were damaged or edited by hand: one line that names the file, and what can be read
is read."""

import json
import time

import pytest
from recorded_run import SPACE as RECORDED
from recorded_run import record

from benchmarks.faults_folders import FOLDERS, LINES, complaint, damaged
from search.records.checking import entry_problem, meta_problem
from search.records.follow import Tail
from search.records.mirror import _age
from search.records.run_folder import EVENTS, LEASE_S, META, SPACE, RunFolder
from spaces.errors import UserError


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return record(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("number", range(len(LINES)))
def test_a_line_that_is_no_record_is_one_line_wherever_it_is_read(plain, tmp_path, number):
    run = damaged(plain, f"line {number}", 0, tmp_path / "run")
    found = []
    for read in (RunFolder.open(run).rows, RunFolder.open(run).lock, Tail(run / EVENTS).read):
        try:
            read()
        except UserError as error:
            found.append(str(error))
            assert str(run / EVENTS) in found[-1] and ", line " in found[-1] and "\n" not in found[-1]
    assert len(found) in (0, 3) and len({line.partition(":")[0] for line in found}) < 2
    assert len(found) == 3 or '"event": "row"' in str(LINES[number]) or entry_problem(
        json.loads(LINES[number] or b"{}")) is None


@pytest.mark.parametrize("kind", ["meta whole", "meta nested", "gone", "lease", "bytes of run.json",
                                  "entry 1", "key 2", "space 1", "study"])
@pytest.mark.parametrize("command", [["status"], None])
def test_a_damaged_folder_gives_one_line(plain, tmp_path, kind, command):
    assert complaint(damaged(plain, kind, 1, tmp_path / "run"), command) is None
    assert kind in FOLDERS


@pytest.mark.parametrize(("meta", "words"), [
    ([], "not an object"), ({"spent": "long"}, "spent is not a number"), ({"box": {"a": [1]}}, "box of a"),
    ({"columns": {"a": "list"}}, "columns are not of the types"), ({"state": 3}, "state is not text"),
    ({"groups": -1}, "groups is not a whole number"), ({"box": {"a": [0, 1e400]}}, "box of a"),
])
def test_run_json_that_was_edited(meta, words):
    assert words in meta_problem(meta) and meta_problem({"of_the_future": [1], "box": None}) is None


@pytest.mark.parametrize(("levels", "legal"), [(99, True), (101, False), (5000, False)])
def test_run_json_of_many_levels_is_refused_before_it_is_walked(levels, legal):
    """Python 3.13 reads 5000 levels, 3.11 does not."""
    value: object = 1
    for level in range(levels - 1):
        value = [value] if level % 2 else {"a": value}
    assert meta_problem({"of_the_future": value}) == (None if legal else "more than 100 levels")


@pytest.mark.parametrize("state", [None, ""])
def test_a_run_whose_state_was_edited_away_was_interrupted(plain, tmp_path, state):
    run = damaged(plain, "front", 0, tmp_path / "run")
    meta = json.loads((run / META).read_text())
    (run / META).write_text(json.dumps({**meta, "state": state}))
    assert RunFolder.open(run).state == "interrupted"


def test_a_space_that_was_edited_between_sessions_is_noticed(plain, tmp_path, capsys):
    from search.cli.main import main

    run = damaged(plain, "front", 0, tmp_path / "run")
    assert not RunFolder.open(run).space_edited
    text = (run / SPACE).read_text()
    (run / SPACE).write_text(text.replace("seed: 4", "seed: 5"))
    folder = RunFolder.open(run)
    with pytest.raises(UserError, match="space.yaml was edited after the run began"):
        folder.lock()
    assert not folder.is_live() and RECORDED["seed"] == 4
    for command in ("status", "front"):
        assert main([command, str(run)]) == 0 and "space.yaml was edited" in capsys.readouterr().out
    (run / SPACE).write_text(text)
    folder.lock().close()
    meta = json.loads((run / META).read_text())
    (run / META).write_text(json.dumps({key: value for key, value in meta.items() if key != "space_sha256"}))
    (run / SPACE).write_text(text.replace("seed: 4", "seed: 5"))
    RunFolder.open(run).lock().close()  # older runs do not tell


@pytest.mark.parametrize("content", [b"[]", b"7", b"{", b"{}", b'{"time": "soon"}', b'{"time": 1e999}',
                                     b"\xff", b'{"time": [1]}', b"[" * 100_000])
def test_a_lease_that_cannot_be_read_keeps_nobody_out(content):
    assert _age(content)[0] > LEASE_S


def test_a_lease_says_whose_a_run_is():
    age, by = _age(json.dumps({"time": time.time() - 5, "by": "process 3 on a"}).encode())
    assert 4 < age < 60 and by == "process 3 on a"
