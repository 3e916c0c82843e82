"""How long the quickstart's packages take to install, beside an earlier commit:
`python -m benchmarks.install_time COMMIT [--repeats 2] [--caches cold,warm] [--keep-nothing]`.

What `make quickstart` does before it runs, `make .venv/run.stamp`, in fresh checkouts in turn: wall and CPU
seconds, from a new environment to the last package. `cold`: caches of pip and uv are empty each time, so that
everything is fetched from the package index; `warm`: they are as an earlier installation of the same checkout
left them. What is not compiled ahead is compiled when it is first imported: `first_import` is what the
libraries of a run take then, `later_import` the next time. With `--keep-nothing` Python keeps none of what it
compiles (PYTHONDONTWRITEBYTECODE=1, as in many images), and all is compiled ahead. Rounds are added to those
that are there already, in results/install_time.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.against import git
from benchmarks.common import RESULTS, save

TARGET, ENVIRONMENT = ".venv/run.stamp", ".venv"
IMPORTS = "import ray.train.torch, torch, transformers.models.bert.modeling_bert, peft, optuna, pandas"


def main() -> None:
    """Write results/install_time.json."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--caches", default="cold,warm")
    parser.add_argument("--keep-nothing", action="store_true")
    args = parser.parse_args()
    path, commit = RESULTS / "install_time.json", git("rev-parse", "--short", args.commit)
    rounds: list[dict[str, Any]] = []
    if path.exists() and (earlier := json.loads(path.read_text()))["before"] == commit:
        rounds = earlier["rounds"]
    with tempfile.TemporaryDirectory() as place:
        trees = {"before": Path(place) / "before", "now": Path(place) / "now"}
        for tree, which in zip(trees.values(), (args.commit, "HEAD"), strict=True):
            git("worktree", "add", "--detach", "--quiet", str(tree), which)
        try:
            for repeat in range(args.repeats):
                for cache in args.caches.split(","):
                    for name in sorted(trees, reverse=repeat % 2 == 0):
                        found = installed(trees[name], Path(place) / f"cache-{name}", cache,
                                          args.keep_nothing)
                        case = f"{cache}, nothing kept" if args.keep_nothing else cache
                        rounds.append({"tree": name, "cache": case, **found})
                        print(json.dumps(rounds[-1]), flush=True)
                        save("install_time", {"before": commit, "medians": medians(rounds), "rounds": rounds})
        finally:
            for tree in trees.values():
                git("worktree", "remove", "--force", str(tree))


def installed(tree: Path, caches: Path, cache: str, keep_nothing: bool) -> dict[str, float]:
    """Seconds of one installation into a checkout, and of the imports after it."""
    shutil.rmtree(tree / ENVIRONMENT, ignore_errors=True)
    if cache == "cold":
        shutil.rmtree(caches, ignore_errors=True)
    environment = {**os.environ, "XDG_CACHE_HOME": str(caches)}
    for name in ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    if keep_nothing:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    wall, cpu = timed(["make", "-C", str(tree), TARGET], tree, environment)
    imports = [timed([str(tree / ENVIRONMENT / "bin" / "python"), "-c", IMPORTS], tree, environment)[1]
               for _ in range(2)]
    size = sum(file.lstat().st_size for file in (tree / ENVIRONMENT).rglob("*") if file.is_file())
    return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "megabytes": round(size / 1e6),
            "first_import_cpu_s": round(imports[0], 1), "later_import_cpu_s": round(imports[1], 1)}


def timed(command: list[str], tree: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (time.monotonic() - began,
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """By the state of the caches: of each figure before, now, and their ratio."""
    found: dict[str, Any] = {}
    for cache in dict.fromkeys(row["cache"] for row in rounds):
        sides = {tree: [row for row in rounds if row["cache"] == cache and row["tree"] == tree]
                 for tree in ("before", "now")}
        if all(sides.values()):
            found[cache] = {}
            for figure in rounds[0].keys() - {"tree", "cache"}:
                before, now = (statistics.median(row[figure] for row in sides[tree]) for tree in sides)
                found[cache][figure] = {"before": before, "now": now, "ratio": round(now / before, 3)}
    return found


if __name__ == "__main__":
    main()
