"""Commands as a shell takes them."""

import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.shell import called, extra_command, program, python, quoted, relative


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A checkout with a `.venv` that holds this Python and `qdlm`, and a shell that knows neither."""
    scripts = tmp_path / "check out" / ".venv" / "bin"
    scripts.mkdir(parents=True)
    for name in ("python", "qdlm", "ray"):
        (scripts / name).write_text("#!/bin/sh\n")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(scripts.parent.parent)
    return scripts


def test_what_is_only_in_the_environment_is_called_by_its_path(environment, monkeypatch):
    assert (program(), python(), called("ray")) == (".venv/bin/qdlm", ".venv/bin/python", ".venv/bin/ray")
    monkeypatch.chdir(environment.parent.parent.parent)
    assert program() == "'check out/.venv/bin/qdlm'"
    monkeypatch.chdir(environment)
    assert program() == "./qdlm" and python() == "./python"
    monkeypatch.chdir("/")
    assert Path("/", *shlex.split(program())) == environment / "qdlm"
    monkeypatch.chdir("/usr")
    assert shlex.split(program()) == [str(environment / "qdlm")]


def test_what_the_shell_finds_is_called_by_its_name(environment, monkeypatch):
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin")
    assert (program(), python(), called("ray")) == ("qdlm", "python", "ray")


def test_another_program_of_that_name_is_not_meant(environment, monkeypatch, tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("qdlm", "python"):
        # as a .venv's python is one of the system's
        (tmp_path / "other" / name).symlink_to(environment / name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'other'}:/usr/bin")
    assert (program(), python()) == (".venv/bin/qdlm", ".venv/bin/python")


def test_where_it_is_not_installed_it_is_a_module(environment):
    (environment / "qdlm").unlink()
    assert program() == ".venv/bin/python -m search" and called("qdlm") == "qdlm"


def test_an_optional_part_is_installed_by_the_same_python(environment):
    assert extra_command("parse") == ".venv/bin/python -m pip install 'qdlm[parse]'"


@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1))
def test_a_shell_takes_quoted_words_as_they_are(words):
    assert shlex.split(quoted(*words)) == words


def test_paths_below_the_working_folder_are_short(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert (relative(tmp_path / "a" / "b") == relative(Path("a/b")) == Path("a/b")
            and relative(Path("/x")) == Path("/x"))
