"""`qdlm run` from its options to its exit code; the sweep itself is a stand-in that says
what it was asked."""

from __future__ import annotations

import json
import pickle
import signal
import sys
from types import SimpleNamespace

import pytest

from search.cli.main import main
from search.cli.session import SessionObserver
from search.records.run_folder import RunFolder
from search.run import sweep
from spaces.errors import RunError, UserError
from spaces.shell import program

SUMMARY = {"running": 0, "complete": 0, "stopped": 0, "failed": 0, "trials": 2, "front_size": 0, "best": {},
           "hypervolume": None, "elapsed": 1.0, "eta": None, "cpu_hours": 0.0, "gpu_hours": 0.0}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Replaces the sweep. `asked` holds what it was called with; `asked.end` decides how it ends."""
    monkeypatch.chdir(tmp_path)
    fake = SimpleNamespace(end=lambda: None, state="finished")

    def run(space, **options):
        fake.space, fake.options = space, options
        folder = RunFolder.create(tmp_path / "runs", space.name, space.to_yaml())
        fake.path = folder.path
        options["observer"]({"event": "run_started", "run": str(folder.path), "name": space.name, **SUMMARY})
        print("a library talks")
        fake.end()
        if fake.state == "finished":
            folder.append({"trial": 0, "rung": 2, "state": "complete", "config.lora.rank": 4, "seconds": 2.0,
                           **{item.metric: 1.0 for item in space.objectives}})
        options["observer"]({"event": "run_finished", "state": fake.state, "run": str(folder.path),
                             **SUMMARY})
        folder.close(fake.state)
        return SimpleNamespace(run_folder=folder.path, front=None, state=fake.state)

    monkeypatch.setattr(sweep, "run", run)
    return fake


def test_options_reach_space_and_sweep(asked, tmp_path, capsys):
    assert main(["run", "quickstart", "--trials", "3", "--budget", "1h30m", "--seed", "7", "--max-concurrent",
                 "2", "--address", "auto", "--storage", "kept", "--set", "trial.adapt.optim.batch_size=8",
                 "--within", "size_bytes <= 200kB", "--within", "latency_ms <= 5ms",
                 "--set", "search.lora.rank.int=[0, 16]"]) == 0
    space = asked.space
    assert [str(bound) for bound in space.constraints][1:] == ["size_bytes <= 200000", "latency_ms <= 5"]
    assert (space.budget.trials, space.budget.time, space.seed) == (3, 5400.0, 7)
    assert space.form.trial["adapt"]["optim"]["batch_size"] == 8 and space.dimensions["lora.rank"].high == 16
    assert (asked.options["max_concurrent"] == 2 and asked.options["address"] == "auto"
            and asked.options["resume"] is None)
    assert str(asked.options["storage"]) == "kept"
    out, err = capsys.readouterr()
    assert "Front: 1 of 1 complete trials" in out and "Next" in out and "a library talks" not in out
    assert f"run runs/{asked.path.name}" in err and "run finished" in err


def test_json_is_all_that_standard_output_holds(asked, capsys):
    assert main(["run", "quickstart", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["event"] for row in rows] == ["run_started", "run_finished"]


def test_quiet_prints_the_front_alone(asked, capsys):
    assert main(["run", "quickstart", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Front: 1 of 1") and err == "a library talks\n"


def test_a_run_without_a_complete_trial_is_exit_1(asked, capsys):
    asked.state = "failed"
    assert main(["run", "quickstart"]) == 1
    assert "there is no front" in capsys.readouterr().out


@pytest.mark.parametrize("mode", [[], ["--quiet"], ["--json"]])
def test_ctrl_c_says_how_to_go_on(asked, capsys, mode):
    def interrupt():
        raise KeyboardInterrupt
    asked.end = interrupt
    assert main(["run", "quickstart", *mode]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"qdlm run --resume runs/{asked.path.name}")


def test_the_answer_to_ctrl_c_comes_before_the_closing(asked, capsys):
    before = signal.getsignal(signal.SIGINT)

    def closing_dies():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            assert "qdlm run --resume runs/" in capsys.readouterr().err
            assert signal.getsignal(signal.SIGINT) is before  # a second Ctrl-C does not wait
    asked.end = closing_dies
    assert main(["run", "quickstart", "--quiet"]) == 1
    assert capsys.readouterr().err == "" and signal.getsignal(signal.SIGINT) is before


def test_a_users_mistake_that_shows_late_is_exit_2(asked, capsys):
    def refuse():
        raise UserError("corpus: no such folder")
    asked.end = refuse
    assert main(["run", "quickstart", "--quiet"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "qdlm: error: corpus: no such folder"


def test_a_run_that_breaks_down_is_one_line_and_exit_1(asked, capsys):
    def break_down():
        raise RunError("its machine was lost")
    asked.end = break_down
    assert main(["run", "quickstart", "--quiet"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("qdlm: its machine was lost; every finished trial is kept. Go on with: "
                           f"{program()} run --resume runs/")


def test_resume_hands_over_the_recorded_space(asked, capsys):
    main(["run", "quickstart", "--trials", "3", "--quiet"])
    path = asked.path
    assert main(["run", "--resume", f"runs/{path.name}", "--trials", "5", "--quiet"]) == 0
    assert (asked.options["resume"] == path and asked.space.budget.trials == 5
            and asked.space.name == "quickstart")


def test_standard_output_is_given_back(asked):
    before = sys.stdout
    main(["run", "quickstart", "--quiet"])
    assert sys.stdout is before


def test_a_display_does_not_stand_in_the_way_of_snapshots():
    copy = pickle.loads(pickle.dumps(SessionObserver(lambda event: None)))
    assert isinstance(copy, SessionObserver) and copy.run is None
