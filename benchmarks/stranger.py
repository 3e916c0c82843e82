"""How long a newcomer takes, step by step: README's two commands; a text, a quantizer and a space of one's
own; the report; a model on a machine without Ray; the same search from a notebook with a tracker, and to a
cluster.

    python -m benchmarks.stranger FOLDER [--python python3.13]     an empty folder, which keeps the clone

Without `--tests` the second command is `make install`: the development tools, and no test is run. What is
typed is what docs/tutorial.md says. Settings of the Makefile (TORCH_INDEX, CUDA) are taken from the
environment. Figures: results/stranger.json, a part for each Python. About half an hour on 2 cores; a walk
that was cut off goes on where it was with the same command (`--seconds`: begin no further step after so
many). Of a step that was begun more than once the seconds are those of the last time, when what it keeps
was there: `begun` says which.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, save

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
    """Steps that are timed and kept, so that a second walk in the same folder goes on. `clone`: where
    commands run unless told otherwise; `until`: when (`time.monotonic`) to begin no further step."""

    def __init__(self, folder: Path, settings: dict[str, str], until: float = math.inf):
        self.folder, self.clone, self.until = folder, folder / "qdlm", until
        # a newcomer's shell knows nothing of the environment that this runs in
        self.environment = {name: value for name, value in os.environ.items()
                            if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | settings
        self.kept = folder / "walk.json"
        self.facts: dict[str, Any] = (json.loads(self.kept.read_text()) if self.kept.is_file() else
                                      {"cores": len(os.sched_getaffinity(0)), "load": round(
                                          os.getloadavg()[0], 1), "seconds": {}, "begun": {}})

    def step(self, name: str, *commands: Sequence[str], at: Path | None = None, code: int = 0) -> None:
        """Run commands, each of which has to end with `code`; keep the seconds of all as `name`."""
        if name in self.facts["seconds"]:
            return
        if time.monotonic() > self.until:
            raise SystemExit(f"time is up before {name}; the same command goes on")
        self.facts["begun"][name] = self.facts["begun"].get(name, 0) + 1
        self.keep()
        began = time.monotonic()
        for command in commands:
            print(f"== {name}: {' '.join(command)}", flush=True)
            done = subprocess.run(command, cwd=at or self.clone, check=False, stdin=subprocess.DEVNULL,
                                  env=self.environment)
            if done.returncode != code:
                raise SystemExit(f"{name}: exit code {done.returncode}, not {code}")
        self.facts["seconds"][name] = round(time.monotonic() - began, 1)
        self.keep()

    def keep(self) -> None:
        """Write down how far it is."""
        self.kept.write_text(json.dumps(self.facts, indent=1))

    def figures(self) -> dict[str, Any]:
        """Of a walk that is over: seconds by step, and which steps were begun more than once."""
        again = {name: times for name, times in self.facts["begun"].items() if times > 1}
        return {**self.facts, "begun": again}


def main() -> None:
    """Walk the path, print and keep the seconds of each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("--python", default="python3", help="the interpreter that `make` gets")
    parser.add_argument("--tests", action="store_true", help="make test, not only make install")
    parser.add_argument("--trials", type=int, default=16, help="of the own search")
    parser.add_argument("--seconds", type=float, default=math.inf,
                        help="begin no further step after so many; the same command then goes on")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # a cluster is ended first
    version = subprocess.run([options.python, "-c", "import platform; print(platform.python_version())"],
                             capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="q") as sockets:  # their paths must be short
        ports = {"QDLM_RAY_PORT": port(), "QDLM_RAY_DASHBOARD_PORT": port(),
                 "QDLM_CLUSTER_STATE": str(options.folder / "state"), "RAY_TMPDIR": sockets}
        walk = Walk(options.folder, ports, until)
        if not walk.clone.is_dir():
            walk.step("clone", ["git", "clone", "-q", str(ROOT), str(walk.clone)], at=walk.folder)
        walk.facts.setdefault("commit", subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=walk.clone, capture_output=True, text=True,
            check=True).stdout.strip())
        walk.facts.setdefault("date", time.strftime("%Y-%m-%d"))
        walk.step("quickstart", ["make", "quickstart", f"PYTHON={options.python}"])
        second = "test" if options.tests else "install"
        walk.step(second, ["make", second, f"PYTHON={options.python}"])
        own(walk, options.trials)
        light(walk, options.python)
        notebook(walk)
        cluster(walk, f"http://127.0.0.1:{ports['QDLM_RAY_DASHBOARD_PORT']}")
    kept = RESULTS / "stranger.json"
    known = json.loads(kept.read_text()).get("pythons", {}) if kept.is_file() else {}
    save("stranger", {"pythons": known | {version: walk.figures()}})


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
    if line not in registry.read_text():
        registry.write_text(re.sub(r"(?m)^(QUANTIZERS.*\{\n)", lambda found: found[1] + line,
                                   registry.read_text()))
    contract = "tests/trainable/quantizers/test_contract.py"
    walk.step("quantizer", [".venv/bin/qdlm", "plugins", "quantizers"],
              [".venv/bin/python", "-m", "pytest", contract, "-k", "four"])
    walk.step("search", [".venv/bin/qdlm", "run", "mine.yaml", "--trials", str(trials)])
    if "run" not in walk.facts:
        run = max((walk.clone / "runs").glob("mine-*"), key=lambda path: path.stat().st_mtime)
        status = json.loads(subprocess.run(
            [".venv/bin/qdlm", "status", str(run), "--format", "json"], cwd=walk.clone, check=True,
            capture_output=True, text=True, env=walk.environment).stdout)
        walk.facts |= {"run": run.name, "found": {name: status[name] for name in (
            "complete", "stopped", "failed", "hypervolume")} | {"front": len(status["front"])}}
        walk.keep()
    walk.step("report", [".venv/bin/qdlm", "report", f"runs/{walk.facts['run']}"])


def light(walk: Walk, python: str) -> None:
    """One model of the front where `pip install qdlm` was all, Ray not."""
    machine = walk.folder / "machine"
    machine.mkdir(exist_ok=True)
    artifact = min((walk.clone / "runs" / walk.facts["run"] / "artifacts").glob("trial-*"))
    shutil.copytree(artifact, machine / artifact.name, dirs_exist_ok=True)
    here, torch = machine / "venv" / "bin", re.search(r"^TORCH +\?= (\S+)", (
        walk.clone / "Makefile").read_text(), re.MULTILINE)[1]
    cuda = [*(["--index", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []),
            *(["--cuda"] if os.environ.get("CUDA") else [])]
    walk.step("light_install", [python, "-m", "venv", str(machine / "venv")],
              [str(here / "python"), str(walk.clone / "cluster" / "install_torch.py"), torch, *cuda],
              [str(here / "python"), "-m", "pip", "install", "-q", str(walk.clone)], at=machine)
    walk.step("light_model", [str(here / "qdlm"), "generate", artifact.name, "-n", "4"],
              [str(here / "python"), "-c", ALONE, artifact.name], at=machine)
    walk.step("light_refusal", [str(here / "qdlm"), "run", "quickstart"], at=machine, code=2)


def notebook(walk: Walk) -> None:
    """The own search once more, in Jupyter's kernel."""
    cells = [{"cell_type": "code", "id": f"cell-{place}", "metadata": {}, "execution_count": None,
              "outputs": [], "source": source}
             for place, source in enumerate(SEARCHING)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    (walk.clone / "mine.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4,
                                                       "nbformat_minor": 5}))
    walk.step("jupyter_install",
              [".venv/bin/python", "-m", "pip", "install", "-q", "nbclient", "ipykernel"])
    walk.step("notebook", [".venv/bin/jupyter-execute", "--timeout=-1", "mine.ipynb"])


def cluster(walk: Walk, address: str) -> None:
    """The quickstart as a job of a cluster, which ends with this walk, however that ends."""
    done = walk.facts["seconds"]
    if "cluster_stop" in done:
        return
    for name in ("cluster_start", "submit"):  # of a walk that was cut off, and its cluster with it
        done.pop(name, None)
    walk.step("cluster_start", ["cluster/local.sh", "start"])
    walk.until = math.inf
    try:
        walk.step("submit", [".venv/bin/qdlm", "submit", "quickstart", "--address", address,
                             "--storage", str(walk.clone / "runs"), "--follow"])
    except BaseException:
        subprocess.run(["cluster/local.sh", "stop"], cwd=walk.clone, env=walk.environment, check=False)
        raise
    walk.step("cluster_stop", ["cluster/local.sh", "stop"])


def port() -> str:
    """A free one."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


if __name__ == "__main__":
    main()
