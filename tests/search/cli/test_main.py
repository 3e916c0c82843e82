"""The command line as a program: its frozen face, exit codes, one-line errors, what it imports."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from search.cli import docs
from search.cli import main as cli
from search.cli.main import HOMES, app_of, main
from search.records.run_folder import RunFolder
from spaces.errors import UserError
from spaces.schema import Space

ROOT = Path(__file__).resolve().parents[3]

# The face that users and scripts rely on. A change here is a change for them: make it on purpose.
FROZEN = {
    "run": {"SPACE", "--trials", "--budget", "--max-concurrent", "--storage", "--address", "--set", "--seed",
            "--resume", "--track", "--quiet", "-q", "--format", "--json", "--deterministic",
            "--warm-start", "--within"},
    "submit": {"SPACE", "--address", "--storage", "--trials", "--budget", "--set", "--pip", "--follow",
               "--attach", "--stop", "--within", "--resume"},
    "front": {"RUN", "--format", "--within", "--best", "--json"},
    "sync": {"FROM", "TO", "--format", "--json"},
    "status": {"RUN", "--format", "--json"},
    "trials": {"RUN", "N", "--where", "--sort", "--limit", "--format", "--json"},
    "report": {"RUN", "--out", "--figures", "--open"},
    "watch": {"RUN", "--every", "--once"},
    "dashboard": {"RUN", "--port", "--host"},
    "compare": {"RUN...", "--format", "--figure", "--json"},
    "replay": {"RUN", "--format", "--json"},
    "bench": {"ARTIFACT", "--against", "--device", "--batch", "--steps", "--repeats", "--threads", "--table",
              "--out", "--format", "--json"},
    "generate": {"ARTIFACT", "--control", "--count", "-n", "--seed", "--steps", "--by", "--scale",
                 "--format", "--json"},
    "export": {"ARTIFACT", "--to", "--out"},
    "table": {"RUN", "--layout", "--targets", "--tasks", "--methods", "--artifact", "--fresh", "--format",
              "--metric", "--json"},
    "spaces": {"--format", "--json"},
    "doctor": {"--storage", "--format", "--json"},
    "plugins": {"KIND", "--format", "--json"},
}


app = app_of()


def commands() -> dict:
    """The commands by name, as typer builds them."""
    return typer.main.get_command(app).commands


def program(*arguments: str, **options) -> subprocess.CompletedProcess:
    """`python -m search ...` as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run([sys.executable, "-m", "search", *arguments], capture_output=True, text=True,
                          env=environment, timeout=120, **options)


def test_of_one_command_its_own_module_is_imported_and_says_the_same():
    assert list(HOMES) == list(commands())
    for name in HOMES:
        alone = typer.main.get_command(app_of(name)).commands
        assert alone.keys() == {each for each in HOMES if HOMES[each] == HOMES[name]}
        assert alone[name].get_short_help_str() == commands()[name].get_short_help_str()
    assert typer.main.get_command(app_of("nonsense")).commands.keys() == HOMES.keys()


def test_what_can_be_had_as_json_is_had_by_one_option():
    options = {name: {word: each for each in command.params for word in each.opts}
               for name, command in commands().items()}
    able = {name for name, of in options.items() if "--format" in of}
    assert {"front", "status", "trials", "compare", "table", "bench"} <= able
    assert able <= {name for name, of in options.items() if "--json" in of}


def test_commands_and_options_are_frozen():
    found = {}
    for name, command in commands().items():
        words = set()
        for parameter in command.params:
            words |= ({parameter.metavar or parameter.name.upper()} if parameter.param_type_name == "argument"
                      else {
                          *parameter.opts, *parameter.secondary_opts})
        found[name] = words - {"--help", "-h"}
    assert found == FROZEN


@pytest.mark.parametrize("name", FROZEN)
def test_help_of_every_command_has_examples_that_parse(name):
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0 and "Examples" in shown.stdout
    examples = [line.strip() for line in shown.stdout.splitlines() if line.strip().startswith(f"qdlm {name}")]
    assert examples
    for example in examples:
        words = shlex.split(example.partition("#")[0].partition(" > ")[0])[1:]
        command = commands()[name]
        # raises for an option that does not exist
        command.make_context(name, words[1:], resilient_parsing=False)


def test_help_fits_80_columns():
    for name in [None, *FROZEN]:
        shown = CliRunner().invoke(app, [*([name] if name else []), "--help"], env={"COLUMNS": "80"})
        assert max(len(line) for line in shown.stdout.splitlines()) <= 80
        for line in shown.stdout.splitlines():
            assert not line.strip().startswith("...")


def test_the_page_shows_every_command_and_no_markup():
    page = docs.page()
    assert all(f"## qdlm {name}\n" in page for name in FROZEN) and "Examples" in page
    assert "[bold]" not in page and "\x1b" not in page


@pytest.fixture
def no_run(tmp_path):
    """Files that are no good, by name; commands are run beside them."""
    (tmp_path / "broken.yaml").write_text("name: [1, 2\nsearch: {\n")
    rest = "objectives: {perplexity: minimize}\nbudget: {trials: 2}\n"
    (tmp_path / "unknown.yaml").write_text(f"serach: {{lora.rank: {{int: [0, 4]}}}}\n{rest}")
    (tmp_path / "format.yaml").write_text(f"search: {{quantization.quantizer: {{choice: ['fixed:Q0i0f']}}}}\n"
                                          f"{rest}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    return tmp_path


BAD = {
    "unknown option": (["run", "--trails", "3"], "--trails"),
    "unknown command": (["rnu"], "rnu"),
    "not a number": (["run", "quickstart", "--trials", "many"], "--trials"),
    "zero trials": (["run", "quickstart", "--trials", "0"], "--trials"),
    "no space": (["run"], "qdlm spaces"),
    "missing file": (["run", "nowhere.yaml"], "nowhere.yaml"),
    "malformed YAML": (["run", "broken.yaml"], "broken.yaml:2"),
    "not text": (["run", "binary.yaml"], "binary.yaml"),
    "unknown key": (["run", "unknown.yaml"], "serach: unknown key"),
    "impossible format": (["run", "format.yaml"], "Q0i0f"),
    "unknown setting": (["run", "quickstart", "--set", "trial.lora.rnak=3"], "trial.lora.rnak"),
    "setting without value": (["run", "quickstart", "--set", "seed"], "KEY=VALUE"),
    "setting twice": (["run", "quickstart", "--trials", "3", "--set", "budget.trials=4"], "budget.trials"),
    "bad duration": (["run", "quickstart", "--budget", "soon"], "soon"),
    "two modes": (["run", "quickstart", "--quiet", "--json"], "--quiet"),
    "resume of no run": (["run", "--resume", "empty"], "empty is not a run folder"),
    "front of no run": (["front", "empty"], "empty is not a run folder"),
    "front of nothing": (["front", "nowhere"], "nowhere"),
    "unknown table form": (["front", "empty", "--format", "xml"], "xml"),
    "status of no run": (["status", "empty"], "empty is not a run folder"),
    "generate from nothing": (["generate", "nowhere"], "nowhere"),
    "generate from no artifact": (["generate", "empty"], "empty is not an artifact"),
    "unknown kind": (["plugins", "quantisers"], "quantizers"),
    "argument missing": (["front"], "RUN"),
}


@pytest.mark.parametrize("arguments, named", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_exit_2(arguments, named, no_run, monkeypatch, capsys):
    monkeypatch.chdir(no_run)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("qdlm: error: ") and named in lines[0]
    assert not (no_run / "runs").exists()


@pytest.mark.parametrize("case", ["unknown option", "malformed YAML", "front of no run"])
def test_bad_input_of_the_program(case, no_run):
    arguments, named = BAD[case]
    done = program(*arguments, cwd=no_run)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("qdlm: error: ") and named in done.stderr


def test_good_exit_codes_and_no_arguments_is_help(capsys):
    assert main([]) == 0
    assert "run" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("qdlm")


def test_a_message_with_line_breaks_becomes_one_line(monkeypatch, capsys):
    def fail(*_args, **_options):
        raise UserError("first\n  second")
    monkeypatch.setattr(cli, "app_of", lambda _: fail)
    assert main(["spaces"]) == 2
    assert capsys.readouterr().err == "qdlm: error: first second\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(*_args, **_options):
        raise ZeroDivisionError
    monkeypatch.setattr(cli, "app_of", lambda _: fail)
    with pytest.raises(ZeroDivisionError):
        main(["spaces"])


def test_a_closed_pipe_leaves_no_traceback():
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    command = [sys.executable, "-m", "search", "plugins", "schedulers"]
    done = subprocess.run(command, stdout=reader.stdin, stderr=subprocess.PIPE, cwd=ROOT, timeout=120)
    reader.stdin.close()
    assert done.stderr == b""


def modules_after(*arguments: str) -> set[str]:
    """The modules that a command has imported by its end."""
    code = ("import json, sys\nfrom search.cli.main import main\ncode = main(sys.argv[1:])\n"
            "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
            "sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_help_imports_nothing_heavy():
    heavy = {"ray", "torch", "transformers", "optuna", "pandas", "pyarrow", "numpy", "spacy", "matplotlib"}
    assert not modules_after("run", "--help") & heavy


def test_listing_spaces_imports_neither_ray_nor_torch():
    loaded = modules_after("spaces")
    assert not loaded & {"ray", "torch", "optuna", "search.cli.run", "search.cli.results"}
    assert "search.cli.inspect" in loaded


def test_a_front_is_told_without_numpy(tmp_path):
    """Which takes a fifth of the command."""
    space = Space.from_yaml("name: few\nsearch: {lora.rank: {int: [0, 8], step: 4}}\n"
                            "objectives: {perplexity: minimize, size_bytes: minimize}\nbudget: {trials: 2}\n")
    with RunFolder.create(tmp_path, "few", space.to_yaml()) as folder:
        for number in range(2):
            folder.append({"trial": number, "rung": 0, "state": "complete", "config.lora.rank": 4 * number,
                           "perplexity": 9.0 - number, "size_bytes": 4.0 + number, "again": 1,
                           "perplexity_again": 9.1 - number, "perplexity_se_again": 0.1,
                           "size_bytes_again": 4.0 + number})
    assert not modules_after("front", str(folder.path)) & {"numpy", "pandas", "pyarrow", "torch", "ray"}
