"""`benchmarks.stranger` goes on where it was cut off, and finds in the tutorial what it types."""

from __future__ import annotations

import sys
import time

import pytest

from benchmarks import stranger
from benchmarks.stranger import Walk


@pytest.fixture
def walk(tmp_path) -> Walk:
    (tmp_path / "qdlm").mkdir()
    return Walk(tmp_path, {"SET": "here"})


def typed(text: str, code: int = 0) -> list[str]:
    """A command that adds a line to a file where it runs."""
    program = f"import os, sys; open('said', 'a').write({text!r} + os.environ['SET']); sys.exit({code})"
    return [sys.executable, "-c", program]


def test_a_second_walk_goes_on_and_says_what_was_begun_anew(walk):
    walk.step("one", typed("a "), typed("b "))
    with pytest.raises(SystemExit, match="two: exit code 3, not 0"):
        walk.step("two", typed("c ", 3))
    later = Walk(walk.folder, {"SET": "later"})
    later.step("one", typed("never "))
    later.step("two", typed("d ", 2), code=2)
    assert (walk.clone / "said").read_text() == "a hereb herec hered later"
    found = later.figures()
    assert list(found["seconds"]) == ["one", "two"] and found["begun"] == {"two": 2}
    with pytest.raises(SystemExit, match="time is up before three"):
        Walk(walk.folder, {}, until=time.monotonic() - 1).step("three", typed("never "))


def test_a_newcomer_has_no_path_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert "PYTHONPATH" not in Walk(tmp_path, {}).environment


def test_what_is_typed_stands_in_the_tutorial(tmp_path, monkeypatch):
    """The space asks for the newcomer's text and quantizer, and the registry has its line, once."""
    clone = tmp_path / "qdlm"
    for name in ("docs/tutorial.md", "trainable/registry.py"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes((stranger.ROOT / name).read_bytes())
    (clone / "trainable" / "quantizers").mkdir()
    walk = Walk(tmp_path, {})
    walk.facts["run"] = "mine-1"
    steps: list[str] = []
    monkeypatch.setattr(Walk, "step", lambda self, name, *commands, **how: steps.append(name))
    for _ in range(2):
        stranger.own(walk, 4)
    assert len((clone / "mine.txt").read_text().splitlines()) == stranger.LINES
    space = (clone / "mine.yaml").read_text()
    assert "path: mine.txt" in space and "[none, four, " in space
    assert (clone / "trainable" / "registry.py").read_text().count('"four": ') == 1
    assert "class Four(Quantizer)" in (clone / "trainable" / "quantizers" / "four.py").read_text()
    assert steps == ["quantizer", "search", "report"] * 2
