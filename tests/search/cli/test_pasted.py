"""Every command that is printed as the next one runs as it is printed: a shell is given it, in a folder with
an awkward name. Of one of the names it starts the program; of the others, which differ in what a shell makes
of them alone, the words that the shell finds go to the program in this process."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from docs_world import Jobs, artifact

from search.cli.format import out
from search.cli.main import main
from search.cli.session import LocalSession, SessionObserver, report
from search.records.run_folder import RunFolder
from spaces.schema import Space
from spaces.shell import program

ROOT = Path(__file__).resolve().parents[3]
SPACE = """
name: small
description: A space for tests.
search: {lora.rank: {int: [0, 8], step: 4}}
objectives: {perplexity: minimize, size_bytes: minimize}
budget: {trials: 6}
"""
NAMES = ["runs", "my runs (it's)", 'a "b" $HOME', "é; true #1"]
STARTED = NAMES[1]
"""The name of which the program is started."""
TELLS = "#!/bin/sh\nprintf '%s\\0' \"$@\"\n"
"""Stands for the program: tells the words that it was called with."""


@pytest.fixture(params=NAMES)
def run(request, tmp_path, monkeypatch) -> Path:
    """A run with one member, in a storage of that name; the shell has not activated the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("COLUMNS", "60")
    folder = RunFolder.create(tmp_path / request.param, "small",
                              Space.from_yaml(SPACE, "small.yaml").to_yaml())
    artifact(folder.path / "artifacts" / "trial-0000", quantizer="binary")
    folder.append({"trial": 0, "rung": 0, "state": "complete", "config.lora.rank": 4, "seconds": 3.0,
                   "perplexity": 9.0, "size_bytes": 4e6, "artifact": "artifacts/trial-0000"})
    folder.close("interrupted")
    if request.param != STARTED:
        scripts = tmp_path / "environment" / "bin"
        scripts.mkdir(parents=True)
        (scripts / "python").symlink_to(sys.executable)
        (scripts / "qdlm").write_text(TELLS)
        (scripts / "qdlm").chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    return folder.path.relative_to(tmp_path)


@pytest.fixture
def pasted(request, run, capsys, monkeypatch):
    """The command as a shell runs it, in the working folder, with the code that is tested."""
    def paste(command: str, *more: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        done = subprocess.run(["bash", "-c", f"{command} {' '.join(more)}"], capture_output=True, text=True,
                              env=environment)
        if request.node.callspec.params["run"] == STARTED or done.returncode:
            return done
        capsys.readouterr()
        with monkeypatch.context() as wide:
            wide.setenv("COLUMNS", "200")
            done.returncode = main(done.stdout.split("\0")[:-1])
        done.stdout, done.stderr = capsys.readouterr()
        return done

    return paste


def commands(text: str) -> list[str]:
    """The commands of this program in what was printed, each to the end of its line."""
    return re.findall(rf"{re.escape(program())} .*", text)


def printed(capsys, *words: str) -> str:
    assert main(list(words)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_after_a_run_and_after_front_best(run, pasted, capsys):
    report(run, out())
    front, generate = commands(capsys.readouterr().out)
    best, = commands(printed(capsys, "front", str(run), "--best", "perplexity"))
    assert best == generate.partition("  #")[0]
    done = pasted(front, "--format json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["artifact"] == f"{run}/artifacts/trial-0000", "data is not quoted"
    assert shlex.split(generate, comments=True)[-1] == f"{run}/artifacts/trial-0000"


def test_text_from_the_member_that_is_named(run, pasted, capsys, request):
    if request.node.callspec.params["run"] != STARTED:
        pytest.skip("once is enough: torch takes seconds to load")
    command, = commands(printed(capsys, "front", str(run), "--best", "perplexity"))
    done = pasted(command, "-n 1")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_going_on(run, pasted, capsys):
    """The search itself is not begun: what is wrong with the settings is told once the run was found."""
    told = [printed(capsys, "status", str(run))]
    watch = SessionObserver(lambda event: None, lambda place: LocalSession.resume_command(None, place))
    watch({"event": "run_started", "run": str(run.resolve())})
    watch.print_resume_hint()
    told.append(capsys.readouterr().err)
    for text in told:
        command, = commands(text)
        done = pasted(command, "--set budgt.trials=3")
        assert done.returncode == 2 and "unknown key 'budgt'" in done.stderr, done.stderr


def test_from_the_report(run, pasted, capsys):
    from search.reporting.report import collect

    again, front, generate = (line
                              for line in collect(run)["reproduce"]["commands"] if not line.startswith("#"))
    done = pasted(again, "--set budgt.trials=3")
    assert done.returncode == 2 and "unknown key 'budgt'" in done.stderr
    assert pasted(front).returncode == 0 and Path(shlex.split(generate)[-1]).is_dir()


def test_words_of_errors_and_lists(run, pasted, capsys):
    assert main(["front"]) == 2
    command, = commands(capsys.readouterr().err)
    assert command == f"{program()} front --help)" and pasted(command.rstrip(")")).returncode == 0
    assert main(["run"]) == 2
    assert f"(see: {program()} spaces), or --resume RUN" in capsys.readouterr().err
    assert commands(printed(capsys, "spaces")) == [f"{program()} run quickstart"]


def test_a_job_is_come_back_to(run, capsys, monkeypatch):
    monkeypatch.setattr("cluster.submitting.client", lambda address: Jobs())
    address = "http://host:8265/?a=1&b=2"
    command, = commands(printed(capsys, "submit", "quickstart", "--storage", str(run.resolve()),
                                "--address", address))
    words = shlex.split(command)
    assert words[-2:] == ["--address", address]
    assert printed(capsys, *words[len(shlex.split(program())):]).endswith("succeeded\n")


def test_where_the_environment_is_active_the_name_is_enough(run, pasted, capsys, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    if not Path(sys.executable).with_name("qdlm").is_file():
        pytest.skip("qdlm is not installed here")
    report(run, out())
    assert len(re.findall(r"^\S*\s+qdlm (front|generate) ", capsys.readouterr().out, re.MULTILINE)) == 2
    assert pasted(f"qdlm front {shlex.quote(str(run))}").returncode == 0
