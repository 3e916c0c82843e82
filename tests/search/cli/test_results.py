"""`front`, `status` and what `run` says at its end, on a run folder written by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from search.cli.format import out
from search.cli.main import main
from search.cli.session import SessionObserver, report, resolve
from search.records.run_folder import RunFolder
from spaces.errors import UserError
from spaces.schema import Space, load

SPACE = """
name: small
description: A space for tests.
search:
  quantization.quantizer: {choice: [none, binary, "fixed:Q0i8f"]}
  lora.rank: {int: [0, 8], step: 4}
objectives: {perplexity: minimize, controllability: maximize, size_bytes: minimize}
constraints: ["latency_ms <= 40"]
budget: {trials: 6}
"""
RESULTS = [  # quantizer, rank, state, perplexity, controllability, size, latency
    ("none", 0, "complete", 10.0, 0.9, 4e6, 20.0),
    ("binary", 4, "complete", 30.0, 0.5, 1e6, 10.0),
    ("binary", 0, "complete", 40.0, 0.4, 2e6, 10.0),
    ("none", 8, "complete", 5.0, 0.95, 4e6, 99.0),
    ("fixed:Q0i8f", 0, "failed", None, None, None, None),
]


@pytest.fixture
def run_path(tmp_path, monkeypatch) -> Path:
    """A run: two members, one dominated trial, one that breaks the constraint, one that failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    folder = RunFolder.create(tmp_path / "runs", "small", Space.from_yaml(SPACE, "small.yaml").to_yaml())
    for trial, (quantizer, rank, state, perplexity, control, size, latency) in enumerate(RESULTS):
        measured = {} if perplexity is None else {
            "perplexity": perplexity, "perplexity_se": 0.5, "perplexity_heldout": 3.5,
            "controllability": control,
            "size_bytes": size, "latency_ms": latency, "artifact": f"artifacts/trial-{trial:04d}"}
        folder.append({"trial": trial, "rung": 0, "state": state, "config.quantization.quantizer": quantizer,
                       "config.lora.rank": rank, "seconds": 30.0,
                       "reason": "ValueError: loss is nan" if not measured else None, **measured})
    folder.close("finished")
    return folder.path.relative_to(tmp_path)


def table(capsys, *arguments: str) -> str:
    """What a command prints."""
    assert main(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_front_shows_members_with_units_intervals_and_differences(run_path, capsys):
    lines = [line.split() for line in table(capsys, "front", str(run_path)).splitlines()]
    assert "Front: 2 of 3 complete trials" in " ".join(lines[0])
    assert lines[1][:5] == ["trial", "perplexity", "↓", "controllability", "↑"]
    assert lines[2] == ["0", "10", "±", "0.98", "0.9", "4", "MB", "quantizer=none", "rank=0"]
    assert lines[3] == ["1", "30", "±", "0.98", "0.5", "1", "MB", "quantizer=binary", "rank=4"]
    assert lines[4] == []


def test_front_says_what_real_text_is_given(run_path, capsys):
    assert "real held-out text, for scale: perplexity 3.5\n" in table(capsys, "front", str(run_path))


def test_front_says_where_models_lie(run_path, capsys):
    assert f"{run_path}/artifacts/trial-NNNN" in table(capsys, "front", str(run_path))


def test_front_within_bounds_and_the_best_of_it(run_path, capsys):
    def trials(*options: str) -> list[int]:
        return [row["trial"]
                for row in json.loads(table(capsys, "front", str(run_path), "--format", "json", *options))]

    assert trials("--within", "size_bytes <= 3MB") == [1]
    assert trials("--within", "size_bytes >= 2MB") == [0, 2]  # what beat trial 2 is out of bounds
    assert trials("--within", "size_bytes >= 1.5 MB", "--within", "latency_ms <= 15ms") == [2]
    assert trials("--best", "size_bytes") == [1] and trials("--best", "controllability") == [0]
    assert trials("--best", "knee") == [0]
    assert "qdlm generate runs/" in table(capsys, "front", str(run_path), "--best", "perplexity")


def test_nothing_within_bounds_says_how_near_one_comes(run_path, capsys):
    assert main(["front", str(run_path), "--within", "size_bytes <= 100kB"]) == 1
    printed = capsys.readouterr().out
    assert ("size_bytes <= 100 kB: kept by 0 of 4; the best is trial 1 with 1 MB" in printed
            and "latency_ms <= 40 ms" in printed)
    for option, said in (("--within=size_bytes <= 3 ms", "legal: a bare number, B, kB, MB, GB"),
                         ("--best=size", "legal: knee,")):
        assert main(["front", str(run_path), option]) == 2
        assert said in capsys.readouterr().err


def test_front_csv_and_json_hold_the_same(run_path, capsys):
    as_csv = list(csv.DictReader(io.StringIO(table(capsys, "front", str(run_path), "--format", "csv"))))
    as_json = json.loads(table(capsys, "front", str(run_path), "--format", "json"))
    assert json.loads(table(capsys, "front", str(run_path), "--json")) == as_json
    assert [row["trial"] for row in as_json] == [0, 1] and [row["trial"] for row in as_csv] == ["0", "1"]
    assert as_json[0]["perplexity_se"] == 0.5 and as_json[0]["latency_ms"] == 20.0
    assert (as_json[1]["config.quantization.quantizer"] == as_csv[1]["config.quantization.quantizer"]
            == "binary")
    assert as_json[0]["artifact"] == f"{run_path}/artifacts/trial-0000"


def test_front_markdown(run_path, capsys):
    lines = table(capsys, "front", str(run_path), "--format", "md").splitlines()
    assert len(lines) == 4 and lines[0].startswith("| trial | figures | perplexity |")


def test_front_shows_repeated_measurements(run_path, capsys):
    folder = RunFolder.open(run_path).lock()
    row = next(row for row in folder.rows() if row["trial"] == 0)
    folder.append({**row, "again": 2, "perplexity_again": 11.5, "perplexity_again_sd": 0.25})
    folder.close()
    shown = table(capsys, "front", str(run_path))
    assert "again 11.5" in shown and "measured anew" in shown
    found = json.loads(table(capsys, "front", str(run_path), "--format", "json"))[0]
    assert found["perplexity_again_sd"] == 0.25 and found["figures"] == "again"
    assert found["perplexity_again_low"] < 11.5 < found["perplexity_again_high"]
    assert "11.5 (again), trial 0" in table(capsys, "status", str(run_path))
    chosen = table(capsys, "front", str(run_path), "--best", "perplexity")
    assert "chosen by the figures that were measured anew" in chosen
    assert main(["front", str(run_path), "--within", "perplexity <= 11"]) == 1
    assert "trial 0 is left out: measured anew, its perplexity is 11.5 (again)" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
def test_words_stay_whole_on_any_terminal(run_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = table(capsys, "front", str(run_path))
    assert max(map(len, shown.splitlines())) <= columns
    assert {"controllability", "quantizer=binary", "rank=4", "10 ± 0.98"} <= {
        word for line in shown.splitlines()
        for word in (*line.split(), *line.split("  "), *map(str.strip, line.split("  ")))}
    shown = table(capsys, "compare", str(run_path), str(run_path))
    assert max(map(len, shown.splitlines())) <= columns
    for label in ("on the joint front", "hypervolume share (95%)", "best controllability", "finished"):
        assert any(label in line for line in shown.splitlines()), label


def test_an_empty_front_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.create(tmp_path, "small", Space.from_yaml(SPACE, "small.yaml").to_yaml())
    folder.close("failed")
    assert "there is no front" in table(capsys, "front", str(folder.path))
    assert table(capsys, "front", str(folder.path), "--format", "json").strip() == "[]"


def test_status_counts_and_names_failures(run_path, capsys):
    shown = table(capsys, "status", str(run_path))
    assert "finished" in shown and "5 of 6" in shown and "4 complete, 0 stopped, 1 failed" in shown
    assert "trial 4 failed: ValueError: loss is nan" in shown
    cost = [line.split()[:3]
            for line in shown.splitlines() if line.startswith(("cost", "useful", "failed", "held"))]
    assert cost == [
        ["cost", "CPU-seconds", "share"], ["useful", "120", "80%"], ["failed", "30", "20%"],
        ["held", "150", "100%"]]
    assert "10, trial 0" in shown and "--resume" not in shown


def test_status_of_an_interrupted_run_says_how_to_go_on(run_path, capsys):
    folder = RunFolder.open(run_path).lock()
    folder.close("interrupted")
    assert f"qdlm run --resume {run_path}" in table(capsys, "status", str(run_path))


def test_the_end_of_a_run_shows_front_place_and_next_commands(run_path, capsys):
    report(run_path.resolve(), out())
    shown = capsys.readouterr().out
    assert "Front: 2 of 3" in shown and f"Results  {run_path}/" in shown and f"qdlm front {run_path}" in shown
    assert f"qdlm generate {run_path}/artifacts/trial-000" in shown


def test_resume_takes_the_recorded_space_and_a_new_budget(run_path):
    space = resolve(None, run_path, {"budget.trials": 9})
    assert space.budget.trials == 9 and space.name == "small"
    recorded = Space.from_yaml(SPACE, "small.yaml")
    assert not resolve(None, run_path, {}).difference(recorded)


def test_resume_with_a_space_that_differs_is_refused(run_path, tmp_path):
    (tmp_path / "same.yaml").write_text(SPACE)
    assert resolve(load("same.yaml"), run_path, {}).name == "small"
    (tmp_path / "other.yaml").write_text(SPACE.replace("[0, 8]", "[0, 12]"))
    with pytest.raises(UserError, match=r"other.yaml does not agree with the run .*lora.rank"):
        resolve(load("other.yaml"), run_path, {}, "other.yaml")
    with pytest.raises(UserError, match="cannot go on with other settings.*seed"):
        resolve(None, run_path, {"seed": 5})


def test_interruption_says_how_to_resume(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = []
    watch = SessionObserver(seen.append, lambda run: f"again {run}")
    watch({"event": "run_started", "run": str(tmp_path / "runs" / "small-1")})
    watch({"event": "rung"})
    assert len(seen) == 2
    watch.print_resume_hint()
    watch.print_resume_hint()
    line, = capsys.readouterr().err.splitlines()
    assert line.endswith(f"again {tmp_path / 'runs' / 'small-1'}")
    SessionObserver(seen.append).print_resume_hint()
    assert "nothing was kept" in capsys.readouterr().err
