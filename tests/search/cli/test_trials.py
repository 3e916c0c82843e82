"""`qdlm trials`: all trials, some, one; `--format json` and completion of every command."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from report_runs import write_run

from search.cli.main import app_of, main
from search.records.run_folder import RunFolder
from search.reporting.filtering import Condition, ordered
from spaces.errors import UserError
from spaces.schema import Space

ROOT = Path(__file__).resolve().parents[3]
SPACE = {"name": "priced", "search": {"quantization.quantizer": {"choice": ["none", "binary"]},
                                      "lora.rank": {"int": [0, 8]}},
         "objectives": {"perplexity": "minimize", "size_bytes": "minimize"}, "rungs": [5, 20],
         "budget": {"trials": 8, "price": 3.0}, "hardware": {"cpus": 2}}


@pytest.fixture(scope="module")
def run_path(tmp_path_factory) -> Path:
    """Two on the front, one that is beaten, one stopped, one failed with a traceback."""
    results = [("none", 0, "complete", 10.0, 4e6, None), ("binary", 4, "complete", 30.0, 1e6, None),
               ("binary", 0, "complete", 40.0, 2e6, None), ("none", 8, "stopped", 90.0, None, "dominated"),
               ("binary", 8, "failed", None, None, "ValueError: loss is nan")]
    folder = RunFolder.create(tmp_path_factory.mktemp("runs"), "priced", Space.from_dict(SPACE).to_yaml())
    for trial, (quantizer, rank, state, perplexity, size, reason) in enumerate(results):
        row = {"trial": trial, "config.quantization.quantizer": quantizer, "config.lora.rank": rank}
        measured = {"perplexity": perplexity, "perplexity_se": 0.5, "size_bytes": size, "nll_bound": 1.25}
        if state == "complete":
            folder.append({**row, "rung": 0, "state": "rung", "fidelity": 5, "perplexity": 99.0,
                           "seconds": 9.0})
        folder.append({**row, "rung": 1 if state == "complete" else 0, "state": state, "fidelity": 20,
                       "seconds": 600.0 * (trial + 1), "reason": reason,
                       "tag": "first" if trial == 0 else None,
                       **{name: value for name, value in measured.items() if value is not None}})
    folder.event({"event": "traceback", "trial": 4, "traceback": "Traceback: in loss.py\nValueError: nan"})
    folder.close("finished")
    return folder.path


def printed(capsys, *arguments: object) -> str:
    assert main([str(word) for word in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def numbers(capsys, run: Path, *options: str) -> list[int]:
    return [row["trial"] for row in json.loads(printed(capsys, "trials", run, "--format", "json", *options))]


def test_the_table_tells_ends_reasons_and_costs(run_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    lines = printed(capsys, "trials", run_path).splitlines()
    assert lines[0].strip() == "5 trials"
    assert lines[1].split() == ["trial", "state", "perplexity", "size", "time", "CPU-hours", "money", "why",
                                "settings"]
    assert " ".join(lines[2].split()) == ("0 complete 10 ± 0.98 4 MB 10 m 00 s 0.333 1 on the front "
                                          "quantizer=none rank=0")
    assert "dominated by 1 " in lines[4] and "ValueError: loss is nan" in lines[6] and "failed" in lines[6]


def test_narrow_terminals_have_settings_below(run_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed(capsys, "trials", run_path).splitlines()
    assert max(map(len, lines)) <= 80 and "quantizer=binary rank=8" in lines[-1]


@pytest.mark.parametrize("options, trials", [
    (["--where", "state=failed"], [4]), (["--where", "rank >= 4"], [1, 3, 4]),
    (["--where", "rank<4"], [0, 2]),
    (["--where", "quantizer != none", "--where", "state = complete"], [1, 2]),
    (["--where", "size_bytes <= 2MB"], [1, 2]), (["--where", "on_front=true"], [0, 1]),
    (["--where", "tag = first"], [0]), (["--where", "tag=none"], [1, 2, 3, 4]),
    (["--where", "perplexity = 30"], [1]), (["--where", "nll_bound > 2"], []),
    (["--sort", "size_bytes"], [1, 2, 0, 3, 4]), (["--sort=-perplexity", "--limit", "2"], [3, 2]),
    (["--sort", "quantizer"], [1, 2, 4, 0, 3]),
])
def test_filter_and_sort(run_path, capsys, options, trials):
    assert numbers(capsys, run_path, *options) == trials


@pytest.mark.parametrize("options, said", [
    (["--where", "perplexity"], "is not COLUMN <=|>=|!=|=|<|> VALUE"),
    (["--where", "perplexty < 3"], "no column 'perplexty' (did you mean 'perplexity'?); legal: trial, state"),
    (["--where", "size_bytes <= 3ms"], "legal: a bare number, B, kB"),
    (["--sort", "name"], "--sort name: no column 'name'"),
    (["7"], "trial 7: the run has no such trial; legal: 0 to 4"),
])
def test_bad_input_is_one_line(run_path, capsys, options, said):
    assert main(["trials", str(run_path), *options]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_an_end_that_two_settings_share_is_refused():
    with pytest.raises(UserError, match="is the end of config.a.name and config.b.name; give more of it"):
        Condition.parse("name=x", ["config.a.name", "config.b.name"])


def test_what_is_missing_comes_last_whichever_way():
    rows = [3.0, None, float("nan"), 1]
    assert ordered(rows, lambda row: row)[:2] == [1, 3.0]
    assert ordered(rows, lambda row: row, True)[:2] == [3.0, 1]


def test_none_of_them_is_said(run_path, capsys):
    assert printed(capsys, "trials", run_path, "--where", "rank > 100") == "None of 5 trials is meant.\n"


def test_csv_and_markdown(run_path, capsys):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "trials", run_path, "--format", "csv"))))
    assert [row["money"] for row in rows][:2] == ["1.0", "2.0"]
    assert rows[4]["why"] == "ValueError: loss is nan"
    assert len(printed(capsys, "trials", run_path, "--format", "md").splitlines()) == 7


def test_all_about_one_trial(run_path, capsys):
    text = printed(capsys, "trials", run_path, 1)
    assert "complete: on the front" in text and "1 of 0 to 1, 20 steps" in text
    assert "0.667 CPU-hours, 2 money" in text
    assert text.index("rungs") < text.index("99") and "nll_bound" in text and "lora.rank" in text
    failed = printed(capsys, "trials", run_path, 4)
    assert "failed: ValueError: loss is nan" in failed
    assert failed.endswith("Traceback: in loss.py\nValueError: nan\n")
    found = json.loads(printed(capsys, "trials", run_path, 0, "--format", "json"))
    assert [rung["steps"] for rung in found["rungs"]] == [5, 20] and found["traceback"] is None


def test_texts_of_a_run_are_no_markup(tmp_path, capsys):
    path = write_run(tmp_path, 12)
    assert "</script><script>" in printed(capsys, "trials", path, 9)


def test_status_and_spaces_for_programs(run_path, capsys):
    found = json.loads(printed(capsys, "status", run_path, "--format", "json"))
    assert (found["state"], found["of"], found["complete"], found["stopped"], found["failed"]) == (
        "finished", 8, 3, 1, 1)
    assert found["front"] == [0, 1] and found["best"]["size_bytes"] == {
        "trial": 1, "value": 1e6, "figures": "own"}
    assert found["cost"]["device"] == "CPU" and found["hypervolume"] is None
    spaces = {space["name"]: space for space in json.loads(printed(capsys, "spaces", "--format", "json"))}
    assert spaces["quickstart"]["objectives"]["perplexity"] == "minimize"


PRINT_NO_DATA = {"submit", "report", "export", "watch", "dashboard"}
"""What they say is for people alone: where something lies, or a picture."""


def test_every_command_that_prints_data_has_it_as_json():
    for name, command in typer.main.get_command(app_of()).commands.items():
        form = inspect.signature(command.callback).parameters.get("form")
        assert (form is not None and "'json'" in form.annotation) != (name in PRINT_NO_DATA), name


def test_a_shell_is_told_how_to_complete():
    """As bash asks for it; the script that does so is typer's own."""
    asked = {**os.environ, "PYTHONPATH": str(ROOT), "_QDLM_COMPLETE": "complete_bash",
             "COMP_WORDS": "qdlm tr", "COMP_CWORD": "1"}
    program = "import sys; from search.cli.main import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True,
                          check=False)
    assert done.stdout.split() == ["trials"] and done.returncode == 0, done.stderr
