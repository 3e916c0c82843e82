"""Rules that hold for every file: who may import whom, how long a file may be, and what is never called."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from spaces.extras import SEARCH

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("qdlm", "spaces", "trainable", "search", "cluster", "dashboards", "benchmarks", "tests")
PRODUCT = ("qdlm", "spaces", "trainable", "search", "cluster", "dashboards")

# Floors from the top of the house to the ground. A file imports from its own room and from floors below;
# rooms that share a floor do not know each other.
FLOORS = (
    ("search.__main__", "qdlm"),
    ("search.cli",),
    ("search.run", "search.reporting", "search.contracts"),
    ("search.distributed", "search.trackers", "dashboards", "cluster"),
    ("search.engine", "search.study"),
    ("search.schedulers",),
    ("search.samplers",),
    ("search.records",),
    ("search.pareto", "search.options"),
    ("trainable.workers", "trainable.benchmarking", "trainable.baselines"),
    ("trainable.stages",),
    ("trainable.scoring",),
    ("trainable.training", "trainable.metrics"),
    ("trainable.artifacts",),
    ("trainable.control",),
    ("trainable.adapters",),
    ("trainable.diffusion", "trainable.training.optimizer"),
    ("trainable.quantization", "trainable.training.adamw8bit", "trainable.training.muon"),
    ("trainable.models", "trainable.corpora"),
    ("trainable.quantizers", "trainable.corpora.special"),
    ("trainable.registry", "trainable.storage", "trainable.seeds"),
    ("spaces", "trainable.messages", "trainable.compat", "trainable.parent"),
)
LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}
# What decides, counts and shows is tried without a model: of trainable/ it knows how folders are written and
# what messages there are, and no more.
KNOWS_NO_MODEL = {"search.engine", "search.study", "search.schedulers", "search.samplers", "search.records",
                  "search.pareto", "search.options", "search.reporting", "search.trackers",
                  "search.contracts", "dashboards", "cluster"}
# Libraries with one home: a regular expression of the modules that may import them (anywhere in the file).
HOMES = {
    "ray": r"trainable\.workers\.loop|search\.distributed\..*|cluster\..*",
    "optuna": r"search\.(samplers|study)\..*|search\.run\.simulator|search\.contracts\..*|dashboards\..*",
    "torch": r"trainable\..*|search\.cli\.(doctor|generate|bench)|qdlm\.generation",
    "transformers": r"trainable\..*",
    "peft": r"trainable\..*",
    "datasets": r"trainable\..*",
    "typer": r"search\.cli\..*",
}
SLOW = {"ray", "torch",
        "transformers", "peft", "datasets", "optuna", "pandas", "matplotlib", "pyarrow", "spacy"}


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """What was parsed: millions of objects, which every later collection of garbage would go through."""
    yield
    for known in (tree, nodes, imports, calls):
        known.cache_clear()


def files(*packages: str) -> list[Path]:
    """Python files of some packages."""
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    """`search/cli/main.py` is `search.cli.main`; a package's `__init__` is the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All that is in the file."""
    return tuple(ast.walk(tree(path)))


def dotted(node: ast.AST) -> str:
    """The names of an expression like `a.b.c`; of any other what comes after it, or nothing."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "", *reversed(names)])


@cache
def imports(path: Path, top_level: bool = False) -> tuple[tuple[int, str], ...]:
    """Line and module of each import; what stands under `if TYPE_CHECKING` costs nothing and is left out."""
    return tuple(_imports(path, top_level))


def _imports(path: Path, top_level: bool) -> Iterator[tuple[int, str]]:
    skipped = {id(node) for branch in nodes(path) if isinstance(branch, ast.If)
               and dotted(branch.test).endswith("TYPE_CHECKING") for item in branch.body
               for node in ast.walk(item)}
    for node in tree(path).body if top_level else nodes(path):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                inner = ROOT / Path(*node.module.split("."), alias.name)
                found = inner.with_suffix(".py").is_file() or (inner / "__init__.py").is_file()
                yield node.lineno, f"{node.module}.{alias.name}" if found else node.module


def room(module: str) -> str | None:
    """The longest room that a module lies in; None for what is not ours."""
    return max((name for name in LEVEL if f"{module}.".startswith(f"{name}.")), key=len, default=None)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def steps() -> Iterator[tuple[str, str, str]]:
    """(where, room, room) of every import that leaves its room."""
    for path in files(*PRODUCT):
        own = room(module_name(path))
        for line, target in imports(path):
            other = room(target)
            if own and other and other != own:
                yield f"{where(path, line)} imports {target}", own, other


def test_every_module_has_a_room():
    homeless = [module for path in files(*PRODUCT) if room(module := module_name(path)) is None]
    assert homeless == ["trainable", "search"]  # the two packages themselves, which are empty


def test_a_file_imports_only_from_the_floors_below():
    wrong = [f"{step}: {own} is not above {other}"
             for step, own, other in steps() if LEVEL[own] >= LEVEL[other]]
    assert not wrong, "\n".join(wrong)


def test_what_decides_knows_no_model():
    wrong = [f"{step}: {own}" for step, own, other in steps()
             if own in KNOWS_NO_MODEL and other.startswith("trainable.")
             and other not in ("trainable.storage", "trainable.messages")]
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_files():
    graph = {module_name(path): {target for _, target in imports(path)} for path in files(*PRODUCT)}
    while leaves := [module for module, targets in graph.items() if not targets & graph.keys() - {module}]:
        for module in leaves:
            del graph[module]
    assert not graph, f"these import each other: {sorted(graph)}"


def test_there_is_one_optimizer():
    home = ROOT / "trainable" / "training" / "optimizer.py"
    others = [path for path in files(*PRODUCT, "benchmarks") if path != home]
    wrong = [f"{where(path, call.lineno)}: calls {name}" for path in others for name, call in calls(path)
             if name.startswith(("torch.optim.", "optim."))]
    assert not wrong, "\n".join(wrong)
    assert "torch.optim.AdamW" in {name for name, _ in calls(home)}


DOCUMENTED = frozenset({"_exit"})  # os._exit: private by its name alone
OF_EVERY_TUPLE = {"_replace", "_asdict", "_fields", "_make"}


@cache
def own_private_names() -> frozenset[str]:
    """Underscored names that are defined here: functions, classes, variables, and attributes that objects
    set on themselves."""
    names: set[str] = set()
    for node in (node for path in files(*PACKAGES) if path.name != "compat.py"
                 for node in nodes(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
              and dotted(node.value) in ("self", "cls")):
            names.add(node.attr)
    return frozenset(names)


def private_names(path: Path) -> Iterator[str]:
    """Private names of libraries: attributes, imported modules, and programs in strings."""
    known = own_private_names() | OF_EVERY_TUPLE | DOCUMENTED
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr) and node.attr not in known:
            yield f"{where(path, node.lineno)}: {ast.unparse(node)}"
        if isinstance(node, ast.Constant) and re.search(r"\b(ray|torch|optuna)\._\w", str(node.value)):
            yield f"{where(path, node.lineno)}: {node.value}"
    yield from (f"{where(path, line)}: imports {target}"
                for line, target in imports(path) if re.search(r"\._(?!_)", target))


def test_private_names_of_libraries_stand_in_compat():
    wrong = [name for path in files(*PRODUCT, "benchmarks") if path.name != "compat.py"
             for name in private_names(path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", ["import torch\ntorch._int_mm(1)", "from ray._private import services",
                                  "trial._trial_id", "program = 'import ray._raylet'"])
def test_the_rule_of_compat_sees_what_it_forbids(tmp_path, monkeypatch, text):
    own_private_names()
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "bad.py").write_text(text)
    assert list(private_names(tmp_path / "bad.py"))


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_at_home(library):
    wrong = [f"{where(path, line)}: {target}" for path in files(*PRODUCT) for line, target in imports(path)
             if target.partition(".")[0] == library and not re.fullmatch(HOMES[library], module_name(path))]
    assert not wrong, "\n".join(wrong)


def test_the_face_imports_nothing_slow_before_it_is_needed():
    wrong = [f"{where(path, line)}: {target}"
             for path in files("search") if room(module_name(path)) == "search.cli"
             for line, target in imports(path, top_level=True) if target.partition(".")[0] in SLOW]
    assert not wrong, "\n".join(wrong)


def test_the_rule_sees_what_it_forbids(tmp_path, monkeypatch):
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "bad.py").write_text("def late():\n    import ray.tune\n"
                                                "    from search import cli\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert list(imports(tmp_path / "spaces" / "bad.py")) == [(2, "ray.tune"), (3, "search")]


def test_no_file_is_longer_than_400_lines():
    long = {str(path.relative_to(ROOT)): count for path in files(*PACKAGES)
            if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


def test_every_module_says_what_it_is_for():
    silent = [str(path.relative_to(ROOT)) for path in files(*PRODUCT)
              if path.read_text(encoding="utf-8").strip() and ast.get_docstring(tree(path)) is None]
    assert not silent


def test_public_functions_have_docstrings():
    silent = [where(path, node.lineno) + f" {node.name}" for path in files(*PRODUCT)
              for node in tree(path).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
              and not node.name.startswith("_") and ast.get_docstring(node) is None]
    assert not silent, "\n".join(silent)


FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"yaml.load", "yaml.full_load", "yaml.unsafe_load",
                   "yaml.load_all", "os.system", "os.popen", "subprocess.getoutput", "eval", "exec"}


@cache
def calls(path: Path) -> tuple[tuple[str, ast.Call], ...]:
    """Each call with its dotted name."""
    return tuple((dotted(node.func), node) for node in nodes(path) if isinstance(node, ast.Call))


def keyword(call: ast.Call, name: str) -> object:
    """The literal value of a keyword argument, or None."""
    literals = {item.arg: item.value.value for item in call.keywords if isinstance(item.value, ast.Constant)}
    return literals.get(name)


def mistakes(path: Path) -> Iterator[str]:
    """What no file may do."""
    for line, target in imports(path):
        if target.partition(".")[0] in FORBIDDEN_MODULES:
            yield f"{where(path, line)}: imports {target}"
    for name, call in calls(path):
        if name in FORBIDDEN_CALLS:
            yield f"{where(path, call.lineno)}: calls {name}"
        if name == "torch.load" and keyword(call, "weights_only") is not True:
            yield f"{where(path, call.lineno)}: torch.load without weights_only=True"
        if any(keyword(call, risk) is True for risk in ("shell", "allow_pickle", "trust_remote_code")):
            yield f"{where(path, call.lineno)}: {ast.unparse(call)}"
    for node in nodes(path):
        if (isinstance(node, ast.ExceptHandler)
                and (node.type is None or len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                     and dotted(node.type) in ("Exception", "BaseException"))):
            yield f"{where(path, node.lineno)}: swallows every exception"
        if isinstance(node, ast.Global):
            yield f"{where(path, node.lineno)}: global state"


def test_nothing_unsafe_is_called():
    wrong = [mistake for path in files(*PRODUCT, "benchmarks") for mistake in mistakes(path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", [
    "import pickle", "import yaml\nyaml.load('x')", "import torch\ntorch.load('x')", "eval('1')",
    "try:\n    f()\nexcept:\n    g()",
    "import torch\ntorch.load('x', weights_only=False)", "import subprocess as s\ns.run('ls', shell=True)",
    "try:\n    f()\nexcept Exception:\n    pass", "def f():\n    global x\n    x = 1",
])
def test_the_safety_rule_sees_what_it_forbids(tmp_path, monkeypatch, text):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "bad.py").write_text(text)
    assert list(mistakes(tmp_path / "bad.py"))


def test_ci_runs_make_test_and_nothing_more():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."', "exec make test"]


def test_makefile_has_the_promised_targets():
    command = ["make", "-C", str(ROOT), "--no-print-directory", "help"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = re.findall(r"^  make (\w+)", listing.stdout, re.MULTILINE)
    assert shown == ["help", "install", "quickstart", "test", "lint", "docs", "clean"]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_dependencies_are_bounded_and_what_make_installs_lies_within():
    needs = {need.name: need.specifier for need in map(Requirement, [*PROJECT["dependencies"],
                                                                     *EXTRAS["search"]])}
    # torch is pinned in the Makefile: its build differs
    assert re.search(r"^TORCH +\?= torch==\d+\.\d+\.\d+$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    del needs["torch"]
    assert all({part.operator for part in bounds} & {"<", "=="} for bounds in needs.values())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.keys() == needs.keys() and all(pins[name] in needs[name] for name in needs)
    others = [need for name, group in EXTRAS.items() if name != "search" for need in group]
    assert all("==" in need or need == "qdlm[search]" for need in others)


def test_what_a_search_adds_is_known_where_it_is_missed():
    modules = {"scikit-learn": "sklearn"}
    names = [Requirement(need).name for need in EXTRAS["search"]]
    assert sorted(modules.get(name, name) for name in names) == sorted(SEARCH)


def test_the_same_pythons_are_named_everywhere():
    legal = SpecifierSet(PROJECT["requires-python"])
    versions = [f"3.{minor}" for minor in range(20) if f"3.{minor}" in legal]
    makefile, doctor = (ROOT / "Makefile").read_text(), (ROOT / "search" / "cli" / "doctor.py").read_text()
    first, last = (tuple(map(int, version.split("."))) for version in (versions[0], versions[-1]))
    for text in (makefile, doctor):
        assert f"{first} <= sys.version_info[:2] < ({last[0]}, {last[1] + 1})" in text
        assert f"{', '.join(versions[:-1])} or {versions[-1]}" in text
    assert f"for p in python3 {' '.join(f'python{version}' for version in versions)}; do" in makefile


def test_no_package_host_is_named():
    for name in ("Makefile", "pyproject.toml", "cluster/install_torch.py", "cluster/install_packages.py",
                 ".ci/run"):
        assert not re.search(r"https?://", (ROOT / name).read_text()), name
