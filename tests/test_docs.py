"""Documentation that works: every qdlm command of README and docs is run up to its slow end, generated pages
are as they would be made, the tutorial's quantizer quantizes and its space loads."""

import contextlib
import importlib.util
import json
import re
import runpy
import shlex
import sys
import warnings
from pathlib import Path

import pytest
import torch
import typer
from docs_world import World

from benchmarks.common import RESULTS
from benchmarks.replay_tables import tables
from search.cli.main import app_of, main
from search.distributed.environment import DEFAULTS
from spaces.schema import Space
from trainable.registry import QUANTIZERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md",
         *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "cli.md")]
COMPUTES = {"qdlm table RUN": "trains the baselines",
            "qdlm table runs/dllmquant --layout post_training": "the run of these pages calibrates nothing"}
"""Commands that are parsed and not run, and why."""
QUICKER = {"bench": ["--repeats", "3", "--steps", "2"]}
"""What is added to a command so that it is quick."""
ELSEWHERE = {"git", "kubectl", "pip", "ray", "optuna-dashboard", "apt-get", "cd", "export", "source"}
"""Programs of others."""


def commands():
    """(page, command) of each code block that is no program text, and of inline code that
    begins with qdlm."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        lines = [line for language, block in blocks if language in ("", "bash", "sh", "console")
                 for line in block.replace("\\\n", " ").splitlines()]
        inline = re.findall(r"`(qdlm [^`]+)`",
                            re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
        lines += re.findall(r"^    (qdlm .+)$", text, re.MULTILINE) + inline
        for line in lines:
            for part in re.split(r"&&|;|\|", line.partition("#")[0]):
                if part.strip() and not part.strip().startswith(("<", "...")):
                    yield page.name, part.strip().partition(" > ")[0]


COMMANDS = sorted(set(commands()))
DISTINCT = sorted((page, command) for command, page in {command: page for page, command in COMMANDS}.items())


@pytest.mark.parametrize("page, made", [("cli.md", ["search.cli.docs"]), ("spaces.md", ["spaces.reference"]),
                                        ("plugins.md", ["search", "plugins", "--format", "md"])])
def test_a_generated_page_is_what_make_docs_would_write(page, made, monkeypatch, capsys):
    """The program runs in this process, which has loaded what it lists already."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", made)
    with warnings.catch_warnings(), contextlib.suppress(SystemExit):
        warnings.simplefilter("ignore", RuntimeWarning)  # it may have been imported here as a module
        runpy.run_module(made[0], run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out == (ROOT / "docs" / page).read_text(encoding="utf-8"), "make docs"


def test_the_tables_of_replayed_searches_are_those_of_the_results():
    page = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    for table in tables(json.loads((RESULTS / "replay.json").read_text())):
        assert table in page, "python -m benchmarks.replay_tables"


def test_there_are_commands_to_look_at():
    assert (len(COMMANDS) > 25
            and {page for page, _ in COMMANDS} >= {"README.md", "tutorial.md", "cluster.md", "report.md"})


def block(language):
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(),
                       re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"), block("yaml"))


@pytest.mark.parametrize("page, command", DISTINCT)
def test_a_command_of_the_docs_does_what_it_says(page, command, world, monkeypatch, capsys):
    """`qdlm` commands are run, all but four slow ends (`docs_world`); of others it is checked that
    they are there."""
    words = shlex.split(re.sub(r"(?<![\w-])\.\.\.", "X", command))
    program = words[0]
    if words[:3] == ["python", "-m", "search"]:
        program, words = "qdlm", ["qdlm", *words[3:]]
    if program == "qdlm":
        group = typer.main.get_command(app_of())
        if words[1:] and not words[1].startswith("-"):
            assert words[1] in group.commands, command
            group.commands[words[1]].make_context(words[1], [world.real(word) for word in words[2:]],
                                                  parent=None)
        if words[1:] and command not in COMPUTES and "--open" not in words:
            world.enter(monkeypatch)
            found = [*map(world.real, words[1:]), *QUICKER.get(words[1] if words[1:] else "", ())]
            if found[:1] == ["replay"]:  # made-up records are not what any search would have proposed
                found[1] = str(world.recorded)
            assert main(found) == 0, capsys.readouterr().err
    elif program == "make":
        text = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", text, re.MULTILINE) for target in words[1:] if "=" not in target)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None
        assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests/"))
    elif program.startswith(("cluster/", "dashboards/")):
        script = (ROOT / program).read_text()
        assert len(words) == 1 or re.search(rf"^{words[1]}\(\)", script, re.MULTILINE), command
    else:
        assert program in ELSEWHERE or program in DEFAULTS, f"{page}: {command}"


def test_the_budget_and_the_bounds_of_a_command_reach_the_search(world, monkeypatch):
    world.enter(monkeypatch)
    assert main(["run", "quickstart", "--within", "size_bytes <= 200kB", "--trials", "7"]) == 0
    asked = world.searched[-1]["space"]
    assert asked.budget.trials == 7 and "size_bytes <= 200000" in [str(bound) for bound in asked.constraints]


def test_the_space_of_the_tutorial_loads_and_its_text_is_read(tmp_path):
    from search.run.validation import check, check_sources

    text = tmp_path / "text.txt"
    text.write_text("a small place to eat near the river\n" * 30)
    space = Space.from_yaml(block("yaml").replace("TEXT", str(text)), "mine.yaml")
    check(space)
    check_sources(space)
    assert space.size() is None and len(space.dimensions) == 4


def test_the_quantizer_of_the_tutorial_keeps_its_promises(tmp_path, monkeypatch):
    (tmp_path / "four_of_the_tutorial.py").write_text(block("python"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(QUANTIZERS.entries, "four", "four_of_the_tutorial:Four")
    try:
        quantizer = QUANTIZERS.build_default("four")
        weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
        values = quantizer.fake_quantize(weight)
        assert set(values.detach().unique().tolist()) <= {-0.75, -0.25, 0.25, 0.75}
        assert torch.equal(quantizer.decode(quantizer.encode(weight), (5, 7)), values.detach())
        assert quantizer.stored_bytes((5, 7)) == 9, "35 values of 2 bits"
        nearest = min((-0.75, -0.25, 0.25, 0.75), key=lambda level: abs(level - weight[0, 0].item()))
        assert values[0, 0].item() == nearest
        values.sum().backward()
        assert torch.equal(weight.grad, (weight.abs() <= 0.75).float())
    finally:
        sys.modules.pop("four_of_the_tutorial", None)
