import json
import os
from pathlib import Path

import pytest
from report_runs import write_run

from search.cli.arguments import artifact_folder
from search.cli.bench import other
from search.cli.main import main
from search.records import copying
from search.records.run_folder import RunFolder
from search.records.sync import sync
from spaces.errors import UserError
from spaces.uris import HOME
from trainable.storage.folders import write_manifest

SAMPLES = "samples/trial-0000.json"


def test_a_run_goes_to_a_uri_and_back_and_only_what_is_new_goes(tmp_path, capsys):
    run = write_run(tmp_path, 6)
    (run / "trials").mkdir()
    (run / "trials" / "checkpoint.pt").write_text("x")
    away, back = (tmp_path / "store" / "a b").as_uri(), tmp_path / "back"
    assert main(["sync", str(run), away]) == 0 and "files" in capsys.readouterr().out
    stored = tmp_path / "store" / "a b"
    assert (stored / "events.jsonl").read_bytes() == (run / "events.jsonl").read_bytes()
    assert (stored / "samples" / "trial-0000.json").is_file()
    assert not (stored / "run.lock").exists() and not (stored / "trials").exists()
    assert sync(str(run), away) == (0, 0)
    sync(away, str(back))
    there = RunFolder.open(back)
    assert there.rows() == RunFolder.open(run).rows()
    there.lock().append({"trial": 99, "state": "complete"})
    there.close()


@pytest.fixture
def synced(tmp_path, monkeypatch):
    """A run, its copy, and the names of the files that the next call reads."""
    run, copy, read = write_run(tmp_path, 6), tmp_path / "copy", []
    old = [path for path in run.rglob("*") if path.is_file()]
    whole = copying.Side.sha256
    monkeypatch.setattr(copying.Side, "sha256", lambda side, name: read.append(name) or whole(side, name))
    monkeypatch.setattr(copying, "YOUNG_S", 0.0)
    assert sync(str(run), str(copy))[0] >= len(old) - 1 and read == []  # all but the lock
    return run, copy, read


def test_what_has_not_changed_is_neither_read_nor_copied(synced):
    run, copy, read = synced
    assert sync(str(run), str(copy)) == (0, 0) and read == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_other_content_of_the_same_size_is_copied(synced, side):
    """Even where the time of its change was set back."""
    run, copy, read = synced
    path = (run if side == "source" else copy) / SAMPLES
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(content.swapcase())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == len(content) and content.swapcase() != content
    assert sync(str(run), str(copy)) == (1, len(content)) and set(read) == {SAMPLES}
    assert (copy / SAMPLES).read_bytes() == (run / SAMPLES).read_bytes()
    assert sync(str(run), str(copy)) == (0, 0)


def test_a_file_that_was_only_touched_is_read_once_and_not_copied(synced):
    run, copy, read = synced
    (run / "space.yaml").touch()
    assert sync(str(run), str(copy)) == (0, 0) and read == ["space.yaml"]
    assert sync(str(run), str(copy)) == (0, 0) and read == ["space.yaml"]


def test_a_file_that_had_just_changed_is_read_again(synced, monkeypatch):
    """It may change once more within the same tick of its clock."""
    run, copy, read = synced
    monkeypatch.setattr(copying, "YOUNG_S", 3600.0)
    (run / "space.yaml").touch()
    for _ in range(2):
        read.clear()
        assert sync(str(run), str(copy)) == (0, 0) and read == ["space.yaml"]


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("no json"),
                                   lambda path: path.write_text("[1]")])
def test_without_the_list_both_sides_are_read(synced, spoil):
    """A copy that was made without one, or whose list is damaged."""
    run, copy, read = synced
    spoil(copy / copying.LISTING)
    (copy / SAMPLES).write_bytes(b"x" * (copy / SAMPLES).stat().st_size)
    assert sync(str(run), str(copy))[0] == 1 and read.count("events.jsonl") == 2
    read.clear()
    assert sync(str(run), str(copy)) == (0, 0) and read == []


def test_what_cannot_be_copied_is_one_line(tmp_path, capsys):
    with pytest.raises(UserError, match="not a run folder"):
        sync(str(tmp_path), str(tmp_path / "x"))
    assert main(["sync", "nonsense://bucket/x", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_at_a_uri_is_fetched_once_and_its_base_with_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(HOME, str(tmp_path / "here"))
    bucket = tmp_path / "bucket"
    for name, facts in (("cache/base-1", {}), ("toy/artifacts/trial-0002", {"base": "/a/node/cache/base-1"})):
        (bucket / name).mkdir(parents=True)
        (bucket / name / "config.json").write_text(json.dumps({"facts": facts}))
        write_manifest(bucket / name)
    model = artifact_folder((bucket / "toy/artifacts/trial-0002").as_uri())
    base = Path(other(model, "base"))
    assert (model.is_relative_to(tmp_path / "here") and base.is_relative_to(tmp_path / "here")
            and base.name == "base-1")
    assert json.loads((base / "config.json").read_text()) == {"facts": {}}
    assert capsys.readouterr().err.count("fetching") == 2
    artifact_folder((bucket / "toy/artifacts/trial-0002").as_uri())
    assert "fetching" not in capsys.readouterr().err
    assert other(bucket / "toy/artifacts/trial-0002", "base") == "base" and other(model, None) is None
