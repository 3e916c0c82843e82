import json
from pathlib import Path

import pytest
from report_runs import write_run

from search.cli.arguments import artifact_folder
from search.cli.bench import other
from search.cli.main import main
from search.records.run_folder import RunFolder
from search.records.sync import ORDER, sync
from spaces.errors import UserError
from spaces.uris import HOME
from trainable.storage.folders import write_manifest


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
    assert sync(str(run), away)[0] == len(ORDER), "what may have changed in place goes again"
    sync(away, str(back))
    there = RunFolder.open(back)
    assert there.rows() == RunFolder.open(run).rows()
    there.lock().append({"trial": 99, "state": "complete"})
    there.close()


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
    assert model.is_relative_to(tmp_path / "here") and base.is_relative_to(tmp_path / "here") and base.name == "base-1"
    assert json.loads((base / "config.json").read_text()) == {"facts": {}}
    assert capsys.readouterr().err.count("fetching") == 2
    artifact_folder((bucket / "toy/artifacts/trial-0002").as_uri())
    assert "fetching" not in capsys.readouterr().err
    assert other(bucket / "toy/artifacts/trial-0002", "base") == "base" and other(model, None) is None
