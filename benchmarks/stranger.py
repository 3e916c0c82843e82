"""How long a newcomer takes, step by step: README's two commands; a text, a quantizer and a space of one's
own; the report; a model on a machine without Ray; the same search from a notebook with a tracker, and to a
cluster.

    python -m benchmarks.stranger FOLDER [--python python3.13]     an empty folder, which keeps the clone

Without `--tests` the second command is `make install`: the development tools, and no test is run. What is
typed is what docs/tutorial.md says. Settings of the Makefile (TORCH_INDEX, CUDA) are taken from the
environment. Figures: results/stranger_PYTHON.json. About half an hour on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import save

ROOT = Path(__file__).resolve().parents[1]
LINES = 5000
GRAMMAR = (("The", "Our", "A", "Every"), ("old", "small", "bright", "quiet", "red", "cold"),
           ("boat", "garden", "train", "kitchen", "river", "market", "school"),
           ("opens", "waits", "sleeps", "shines", "moves", "stands"),
           ("near", "behind", "above", "beside", "below"), ("the", "our", "a"),
           ("hill", "harbor", "station", "forest", "bridge", "tower"),
           ("in spring .", "at night .", "every morning .", "when it rains .", "for a while ."))
"""A line of the text takes one of each."""
SEARCHING = ("import qdlm", """run = qdlm.run("mine.yaml", n_trials=4, seed=1, track=["tensorboard"])
assert run.state == "finished" and run.front, run
sorted(path.name for path in (run.path / "tensorboard").iterdir())""")
"""The notebook's cells."""
ALONE = """import sys
import qdlm
texts = qdlm.load(sys.argv[1]).generate(4, control={"length": 8})
print(*texts, sep="\\n")
assert len(texts) == 4
for name in ("ray", "optuna", "spacy", "pandas"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is installed")"""
"""A program for the machine without Ray."""


class Walk:
    """Steps that are timed. `clone`: where commands run unless told otherwise."""

    def __init__(self, folder: Path, settings: dict[str, str]):
        self.folder, self.clone, self.settings = folder, folder / "qdlm", settings
        self.figures: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 1)}

    def step(self, name: str, *commands: Sequence[str], at: Path | None = None, code: int = 0) -> None:
        """Run commands, each of which has to end with `code`; keep the seconds of all as `name`."""
        began = time.monotonic()
        for command in commands:
            print(f"== {name}: {' '.join(command)}", flush=True)
            done = subprocess.run(command, cwd=at or self.clone, check=False, stdin=subprocess.DEVNULL,
                                  env={**os.environ, **self.settings})
            if done.returncode != code:
                raise SystemExit(f"{name}: exit code {done.returncode}, not {code}")
        self.figures[name] = round(time.monotonic() - began, 1)


def main() -> None:
    """Walk the path, print and keep the seconds of each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("--python", default="python3", help="the interpreter that `make` gets")
    parser.add_argument("--tests", action="store_true", help="make test, not only make install")
    parser.add_argument("--trials", type=int, default=16, help="of the own search")
    options = parser.parse_args()
    ports = {"QDLM_RAY_PORT": port(), "QDLM_RAY_DASHBOARD_PORT": port(),
             "QDLM_CLUSTER_STATE": str(options.folder / "state"), "RAY_TMPDIR": tempfile.mkdtemp(prefix="q")}
    version = subprocess.run([options.python, "-c", "import platform; print(platform.python_version())"],
                             capture_output=True, text=True, check=True).stdout.strip()
    walk = Walk(options.folder, ports)
    walk.figures["python"] = version
    walk.step("clone_seconds", ["git", "clone", "-q", str(ROOT), str(walk.clone)], at=walk.folder)
    walk.step("quickstart_seconds", ["make", "quickstart", f"PYTHON={options.python}"])
    walk.step("test_seconds" if options.tests else "install_seconds",
              ["make", "test" if options.tests else "install", f"PYTHON={options.python}"])
    own(walk, options.trials)
    light(walk, options.python)
    notebook(walk)
    cluster(walk, f"http://127.0.0.1:{ports['QDLM_RAY_DASHBOARD_PORT']}")
    save(f"stranger_{version.rpartition('.')[0]}", walk.figures)


def own(walk: Walk, trials: int) -> None:
    """A text, a quantizer with its contract tests, a space that asks for both; a search, its report."""
    page = (walk.clone / "docs" / "tutorial.md").read_text(encoding="utf-8")
    space, quantizer, line = (re.search(rf"^```{kind}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
                              for kind in ("yaml", "python", "text"))
    rng = random.Random(0)
    (walk.clone / "mine.txt").write_text("".join(f"{' '.join(map(rng.choice, GRAMMAR))}\n"
                                                 for _ in range(LINES)))
    space = space.replace("TEXT", "mine.txt").replace("[none, ", "[none, four, ")
    (walk.clone / "mine.yaml").write_text(space)
    (walk.clone / "trainable" / "quantizers" / "four.py").write_text(quantizer)
    registry = walk.clone / "trainable" / "registry.py"
    registry.write_text(re.sub(r"(?m)^(QUANTIZERS.*\{\n)", lambda found: found[1] + line,
                               registry.read_text()))
    contract = "tests/trainable/quantizers/test_contract.py"
    walk.step("quantizer_seconds", [".venv/bin/qdlm", "plugins", "quantizers"],
              [".venv/bin/python", "-m", "pytest", contract, "-k", "four"])
    walk.step("search_seconds", [".venv/bin/qdlm", "run", "mine.yaml", "--trials", str(trials)])
    walk.step("report_seconds", [".venv/bin/qdlm", "report", str(found_run(walk))])


def found_run(walk: Walk) -> Path:
    """The folder of the search that ended last."""
    return max((walk.clone / "runs").glob("mine-*"), key=lambda path: path.stat().st_mtime)


def light(walk: Walk, python: str) -> None:
    """One model of the front where `pip install qdlm` was all, Ray not."""
    machine = walk.folder / "machine"
    machine.mkdir()
    artifact = min((found_run(walk) / "artifacts").glob("trial-*"))
    shutil.copytree(artifact, machine / artifact.name)
    here, torch = machine / "venv" / "bin", re.search(r"^TORCH +\?= (\S+)", (
        walk.clone / "Makefile").read_text(), re.MULTILINE)[1]
    cuda = [*(["--index", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []),
            *(["--cuda"] if os.environ.get("CUDA") else [])]
    walk.step("light_install_seconds", [python, "-m", "venv", str(machine / "venv")],
              [str(here / "python"), str(walk.clone / "cluster" / "install_torch.py"), torch, *cuda],
              [str(here / "python"), "-m", "pip", "install", "-q", str(walk.clone)], at=machine)
    walk.step("light_model_seconds", [str(here / "qdlm"), "generate", artifact.name, "-n", "4"],
              [str(here / "python"), "-c", ALONE, artifact.name], at=machine)
    walk.step("light_refusal_seconds", [str(here / "qdlm"), "run", "quickstart"], at=machine, code=2)


def notebook(walk: Walk) -> None:
    """The own search once more, in Jupyter's kernel."""
    cells = [{"cell_type": "code", "id": f"cell-{place}", "metadata": {}, "execution_count": None,
              "outputs": [], "source": source}
             for place, source in enumerate(SEARCHING)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    (walk.clone / "mine.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4,
                                                       "nbformat_minor": 5}))
    walk.step("jupyter_install_seconds",
              [".venv/bin/python", "-m", "pip", "install", "-q", "nbclient", "ipykernel"])
    walk.step("notebook_seconds", [".venv/bin/jupyter-execute", "--timeout=-1", "mine.ipynb"])


def cluster(walk: Walk, address: str) -> None:
    """The quickstart as a job of a cluster."""
    walk.step("cluster_start_seconds", ["cluster/local.sh", "start"])
    try:
        walk.step("submit_seconds", [".venv/bin/qdlm", "submit", "quickstart", "--address", address,
                                     "--storage", str(walk.clone / "runs"), "--follow"])
    finally:
        walk.step("cluster_stop_seconds", ["cluster/local.sh", "stop"])


def port() -> str:
    """A free one."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


if __name__ == "__main__":
    main()
