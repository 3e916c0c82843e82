"""The other half of the fault drill: what is read, damaged in many ways; nothing is started.

    python -m benchmarks.faults_inputs                              every kind
    python -m benchmarks.faults_inputs --kinds spaces,artifacts     these alone; the others stay as they were
    python -m benchmarks.faults_inputs --share 0.1                  a tenth of the cases
    python -m benchmarks.faults_inputs --minutes 4.5                 stop after that; the next call goes on

Every case ends in what was asked for (`fine`), in that and a warning, or in one line (`refused`). A traceback
is any other exception, a hang anything that takes more than two minutes. Memory is the peak of the process
that opens all hostile artifacts, above what it was after opening a good one. The results stand under
`inputs` in results/faults.json, each kind of one state of the code (`code`); the seeds are the numbers from
0.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, host
from spaces.errors import UserError

HANG_S = 120
COUNTS = {"spaces": 1000, "folders": 500, "artifacts": 200, "corpora": 21, "formats": 5000}
Case = Callable[[], str]
"""Runs one case: `fine`, or the line that it was refused with. Anything that it raises is a traceback."""

SPACE = """\
name: fuzz
objectives: {perplexity: minimize, size_bytes: minimize}
constraints: ["size_bytes <= 10MB"]
trial:
  corpus: {source: {name: restaurant, sentences: 200, max_words: 28}, max_length: 32, min_count: 0}
  model: {hidden: 32, layers: 1, heads: 2, ffn: 32}
  diffusion: {timesteps: 100}
search:
  quantization.quantizer: {choice: [none, binary, "fixed:Q0i4f"]}
  lora.rank: {int: [0, 8], step: 4}
  adapt.optim.lr: {log: [1.0e-4, 1.0e-2]}
budget: {trials: 12, time: 30m}
rungs: [10, 40]
sampler: {name: ehvi, startup: 4}
seed: 3
"""
SNIPPETS = (
    "null", "[]", "{}", "-1", "0", "1e400", "9" * 400, ".inf", ".nan", "yes", "'x'", "[[[[",
    "&a [*a]", "!!python/object:os.system x", "{choice: []}", "{int: [0, 2e9]}", "{log: [0, 1]}", "\x1b[31m",
    "\t", "1e-5", "<= 5", "2h", "a: b: c", "- x", "{name: gp}", "[none, none]", "\x00", "ü", "? x", "|\n  x")


def spaces(count: int, work: Path) -> Iterator[Case]:
    """Space files with words, lines and bytes changed, read and checked as `qdlm run` does."""
    from search.run.validation import load_checked

    def case(seed: int) -> str:
        chance, lines = random.Random(f"space-{seed}"), SPACE.splitlines()
        for _ in range(chance.choice([1, 1, 2, 4])):
            place = chance.randrange(len(lines))
            words = lines[place].split(" ")
            signs = "".join(chance.choices("[]{}:,-#&*!|>'\"%@`", k=3))
            words[chance.randrange(len(words))] = chance.choice(
                [*SNIPPETS, chance.choice(SPACE.split()), signs])
            lines[place] = chance.choice([" ".join(words)] * 6 + ["", lines[place] * 2, " " + lines[place]])
        path = work / "space.yaml"
        path.write_text("\n".join(lines), encoding="utf-8")
        load_checked(path)
        return "fine"

    for seed in range(count):
        yield lambda seed=seed: case(seed)


def folders(count: int, work: Path) -> Iterator[Case]:
    """Run folders that were damaged or edited, each read by a command or gone on with."""
    from benchmarks.faults_folders import COMMANDS, FOLDERS, complaint, damaged, example

    plain, kinds = example(work / "plain"), list(FOLDERS)

    def case(number: int) -> str:
        chance = random.Random(f"folder-{number}")
        run = damaged(plain, kinds[number % len(kinds)], number, work / "run")
        for command in chance.sample([*COMMANDS, None], 2):
            wrong = complaint(run, command)
            assert wrong is None, f"{kinds[number % len(kinds)]} {number} {command}: {wrong}"
        return "fine"

    for number in range(count):
        yield lambda number=number: case(number)


def artifacts(count: int, work: Path) -> Iterator[Case]:
    """Exported models that lie, opened."""
    from benchmarks.faults_artifacts import KINDS, hostile
    from benchmarks.faults_formats import FORMATS
    from trainable.artifacts.artifact import load

    (work / "good").mkdir(parents=True)
    FORMATS["artifact"].write(work / "good")
    plain, kinds = work / "good" / "model", list(KINDS)
    load(plain)

    def case(number: int) -> str:
        maker = os.fork()  # what making it takes is not the memory of opening it
        if not maker:
            try:
                hostile(plain, kinds[number % len(kinds)], number // len(kinds), work / "copy")
            finally:
                os._exit(0)
        os.waitpid(maker, 0)
        load(work / "copy")
        return "fine"

    for number in range(count):
        yield lambda number=number: case(number)


def corpora(count: int, work: Path) -> Iterator[Case]:
    """Text of the kinds that go wrong, prepared as a run does; most of it has to be refused."""
    from benchmarks.faults_corpora import TEXTS, prepared

    for text in list(TEXTS.values())[:count]:
        yield lambda text=text: prepared(text, work)


def formats(count: int, work: Path) -> Iterator[Case]:
    """Our own file formats, changed at random."""
    from benchmarks.faults_formats import FORMATS, case, examples

    good, names = examples(work / "good"), list(FORMATS)

    def one(number: int) -> str:
        name = names[number % len(names)]
        line = case(name, number // len(names), good[name], work / "copy")
        return "fine" if line == "read" else line

    for number in range(count):
        yield lambda number=number: one(number)


KINDS = {"spaces": spaces, "folders": folders, "artifacts": artifacts, "corpora": corpora, "formats": formats}


def _late(*_: Any) -> None:
    raise TimeoutError(f"more than {HANG_S} s")


def drill(kind: str, count: int, work: Path, start: int = 0,
          deadline: float = math.inf) -> dict[str, Any]:
    """The sums over the cases of a kind from number `start` on, in this process; it stops at `deadline`
    (`time.monotonic`)."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    signal.signal(signal.SIGALRM, _late)
    sums, problems, plain, began = Counter[str](), list[str](), 0, time.monotonic()
    for number, case in enumerate(itertools.islice(KINDS[kind](count, work), start, None), start):
        if number == start:  # what a good one takes is in here
            plain = _memory("VmRSS")
            _PEAK.write_text("5")  # the peak starts anew
        elif time.monotonic() > deadline:
            break
        signal.alarm(HANG_S)
        try:
            line = case()
            sums["fine" if line == "fine" else "warned" if line.startswith("warned") else "refused"] += 1
        except UserError as error:
            sums["refused" if "\n" not in str(error) else "tracebacks"] += 1
        except TimeoutError:
            sums["hangs"] += 1
            problems.append(f"{number}: hang")
        except Exception as error:  # noqa: BLE001 - every other one is a finding
            sums["tracebacks"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = str(error).replace(f"{work}/", "")[:160]  # no path of this machine in the results
            problems.append(f"{number}: {type(error).__name__}: {said} "
                            f"({Path(where.filename).name}:{where.lineno})")
        finally:
            signal.alarm(0)
    above = _memory("VmHWM") - plain
    shutil.rmtree(work, ignore_errors=True)
    return {"cases": sum(sums.values()), "tracebacks": 0, "hangs": 0, **dict(sorted(sums.items())),
            "memory_above_plain_mb": round(above / 1024, 1), "problems": problems[:20],
            "minutes": round((time.monotonic() - began) / 60, 2)}


_PEAK = Path("/proc/self/clear_refs")


def _memory(kind: str) -> int:
    """Resident kilobytes of this process, now (VmRSS) or at most (VmHWM); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind))


def together(before: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The sums of two parts of the cases of a kind."""
    found = {**before}
    for name, value in more.items():
        found[name] = (max(value, found.get(name, value)) if name == "memory_above_plain_mb"
                       else value + found.get(name, type(value)()))
    return {**found, "problems": found["problems"][:20], "minutes": round(found["minutes"], 2)}


def code_state() -> str:
    """What of the repository decides how a drill ends: a hash over its Python files."""
    root, found = RESULTS.parents[1], hashlib.sha256()
    for package in ("spaces", "trainable", "search", "qdlm", "dashboards", "benchmarks"):
        for path in sorted((root / package).rglob("*.py")):
            found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="after that long, stop; the same command goes on")
    parser.add_argument("--again", action="store_true", help="forget what was drilled of these kinds")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "qdlm-faults-inputs")
    parser.add_argument("--inside", metavar="KIND", help="run one kind in this process and print its sums")
    parser.add_argument("--start", type=int, default=0, help="with --inside: the first case")
    args = parser.parse_args()
    began = time.monotonic()
    if args.inside:
        count = max(1, round(COUNTS[args.inside] * args.share))
        print(json.dumps(drill(args.inside, count, args.work / args.inside, args.start,
                               began + 60 * args.minutes)))
        return 0
    wrong = 0
    for kind in args.kinds.split(","):  # a process each: a crash of one is found, and memory is its own
        left = args.minutes - (time.monotonic() - began) / 60
        path = RESULTS / "faults.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        before, state = known.get("inputs", {}).get(kind, {}), code_state()
        if args.again or before.get("code") != state or "crashed" in before:
            before = {}
        start = before.get("cases", 0)
        if left <= 0 or start >= round(COUNTS[kind] * args.share):
            continue
        done = subprocess.run([sys.executable, "-m", "benchmarks.faults_inputs", "--inside", kind, "--share",
                               str(args.share), "--work", str(args.work), "--start", str(start),
                               "--minutes", str(left)], stdout=subprocess.PIPE, text=True, check=False)
        sums = (json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0
                else {"crashed": done.returncode})
        where = {key: value for key, value in host().items() if key in ("cpus", "machine", "load", "date")}
        told = ("code", "commit", "command", "host")
        parts = {name: value for name, value in before.items() if name not in told}
        sums = {**(together(parts, sums) if parts and "crashed" not in sums else sums), "code": state,
                "commit": host()["commit"], "host": where,
                "command": f"python -m benchmarks.faults_inputs --kinds {kind}"}
        print(kind, json.dumps(sums, indent=1), flush=True)
        wrong += sums.get("tracebacks", 1) + sums.get("hangs", 1)
        known = json.loads(path.read_text()) if path.exists() else {}  # another drill may have written
        known["inputs"] = {**known.get("inputs", {}), kind: sums}
        path.write_text(json.dumps(known, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
