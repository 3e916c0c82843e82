"""The other half of the fault drill: what is read, damaged in many ways; nothing is started.

    python -m benchmarks.faults_inputs                              every kind
    python -m benchmarks.faults_inputs --kinds spaces,artifacts     these alone; the others stay as they were
    python -m benchmarks.faults_inputs --share 0.1                  a tenth of the cases

Every case ends in what was asked for or in one line. A traceback is any other exception, a hang anything
that takes more than two minutes. Memory is the peak of the process that opens all hostile artifacts, above
what it was after opening a good one. The results stand under `inputs` in results/faults.json; the seeds are
the numbers from 0.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
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
COUNTS = {"spaces": 1000, "folders": 500, "artifacts": 200, "corpora": 8, "formats": 5000}
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


TEXTS: dict[str, tuple[str, bytes]] = {
    "rows without words": ("a.txt", b"\n \n\t\n\xe2\x80\x8b\n" * 40),
    "null texts": ("a.jsonl", b'{"text": null}\n{"text": ""}\n' * 40),
    "a byte-order mark": ("a.txt", b"\xef\xbb\xbfa cat sat on the mat\n" + b"the dog sat on the cat\n" * 50),
    "one line": ("a.txt", b"the cat sat on the mat\n"),
    "not UTF-8": ("a.txt", b"the cat sat on the mat\n" * 30 + b"caf\xe9\n"),
    "no spaces": ("a.txt", "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u53bb\n".encode() * 60),
    "mostly too long": ("a.txt", b"word " * 90 + b"\n" + b"the cat\n" + (b"word " * 90 + b"\n") * 60),
    "rare words": ("a.txt", b"".join(b"w%d v%d u%d the\n" % (i, i, i) for i in range(80))),
}


def corpora(count: int, work: Path) -> Iterator[Case]:
    """Text of the kinds that go wrong, prepared as a run does."""
    from spaces.config import TrialConfig
    from trainable.stages.prepare import prepare_corpus

    work.mkdir(parents=True, exist_ok=True)

    def case(name: str, content: bytes) -> str:
        (work / name).write_bytes(content)
        config = TrialConfig.model_validate({"corpus": {
            "source": {"name": "lines", "path": str(work / name)}, "max_length": 32, "min_count": 1}})
        *_, last = prepare_corpus(config, work / "cache")
        return "fine" if not last["warnings"] else f"warned: {last['warnings'][0]}"

    for name, content in list(TEXTS.values())[:count]:
        yield lambda name=name, content=content: case(name, content)


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


def drill(kind: str, count: int, work: Path) -> dict[str, Any]:
    """The sums over all cases of a kind, in this process."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    signal.signal(signal.SIGALRM, _late)
    sums, problems, began = Counter(), [], time.monotonic()
    plain = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, case in enumerate(KINDS[kind](count, work)):
        if not number:  # what a good one takes is in here
            plain = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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
            problems.append(f"{number}: {type(error).__name__}: {str(error)[:160]} "
                            f"({Path(where.filename).name}:{where.lineno})")
        finally:
            signal.alarm(0)
    above = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - plain
    shutil.rmtree(work, ignore_errors=True)
    return {"cases": sum(sums.values()), "tracebacks": 0, "hangs": 0, **dict(sorted(sums.items())),
            "memory_above_plain_mb": round(above / 1024, 1), "problems": problems[:20],
            "minutes": round((time.monotonic() - began) / 60, 2), "commit": host()["commit"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "qdlm-faults-inputs")
    parser.add_argument("--inside", metavar="KIND", help="run one kind in this process and print its sums")
    args = parser.parse_args()
    if args.inside:
        count = max(1, round(COUNTS[args.inside] * args.share))
        print(json.dumps(drill(args.inside, count, args.work / args.inside)))
        return 0
    wrong = 0
    for kind in args.kinds.split(","):  # a process each: a crash of one is found, and memory is its own
        done = subprocess.run([sys.executable, "-m", "benchmarks.faults_inputs", "--inside", kind, "--share",
                               str(args.share), "--work", str(args.work)], stdout=subprocess.PIPE, text=True,
                              check=False)
        sums = (json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0
                else {"crashed": done.returncode})
        print(kind, json.dumps(sums, indent=1), flush=True)
        wrong += sums.get("tracebacks", 1) + sums.get("hangs", 1)
        path = RESULTS / "faults.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        where = {key: value for key, value in host().items() if key in ("cpus", "machine", "load", "date")}
        known["inputs"] = {**known.get("inputs", {}), kind: {**sums, "host": where}}
        path.write_text(json.dumps(known, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
