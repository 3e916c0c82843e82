"""What terminals obey is shown, not sent: reasons, words and names come from outside."""

import io
import json
from types import SimpleNamespace

import pytest
import torch

from search.cli.format import SafeConsole, emit
from search.cli.main import main
from search.records.run_folder import EVENTS, RunFolder
from spaces.texts import visible

EVIL = "\x1b[2J\x1b]0;title\x07 red\x9b31m \u202eback \x7f"


def test_what_cannot_be_seen_is_written_out():
    assert visible(EVIL) == "\\x1b[2J\\x1b]0;title\\x07 red\\x9b31m \\u202eback \\x7f"
    assert visible("naïve 北京\tà\n") == "naïve 北京\tà\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_keeps_its_own_colors_and_shows_those_of_others(terminal):
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=terminal, width=200)
    console.print(f"[red]ours[/] {EVIL}".replace("[2J", "\\[2J"), markup=True)
    text = file.getvalue()
    assert ("\x1b[31mours" in text) == terminal and "\x1b[2J" not in text and "\\x1b" in text
    assert not {"\x07", "\x9b", "\u202e", "\x7f"} & set(text)


def test_reasons_in_a_run_reach_no_terminal(tmp_path, capsys):
    from report_runs import write_run

    run = write_run(tmp_path, 12)
    folder = RunFolder.open(run).lock()
    folder.append({"trial": 12, "rung": 0, "state": "failed", "reason": EVIL, "seconds": 1.0})
    folder.update(reason=EVIL)
    folder.close("failed")
    assert EVIL.encode("unicode_escape").decode()[:8] in (run / EVENTS).read_text() or EVENTS
    for command in (["status"], ["watch", "--once"], ["front", "--format", "csv"]):
        assert main([command[0], str(run), *command[1:]]) == 0
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err and "\x07" not in captured.out
    assert main(["status", f"{tmp_path}/\x1b[31m"]) == 2 and "\x1b" not in capsys.readouterr().err


def test_words_of_a_model_reach_no_terminal(monkeypatch, tmp_path, capsys):
    loaded = SimpleNamespace(generate=lambda n, noise, steps=None: torch.zeros(n, 2),
                             words=lambda ids: [[EVIL, "word"]] * len(ids))
    monkeypatch.setattr("trainable.artifacts.artifact.load", lambda path: loaded)
    for more in ([], ["--json"]):
        assert main(["generate", str(tmp_path), "-n", "1", *more]) == 0
        text = capsys.readouterr().out
        assert "word" in text and not {"\x1b", "\x07", "\x9b", "\x7f", "\u202e"} & set(text)
    assert json.loads(text)["text"].startswith("\x1b[2J")


def test_tables_for_programs_are_shown_too():
    for form in ("csv", "md", "json"):
        assert "\x1b" not in emit([{"reason": EVIL}], form)
