"""Run folders that were damaged, merged or edited by hand, and the commands that read them.

Each ends in what it prints, or in one line on standard error; never in a traceback, and never does it wait
for something that will not come.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults_artifacts import LARGE, ODD, _bytes_of, anywhere, nested
from search.records.run_folder import EVENTS, FRONT_JSON, META, SPACE, STUDY, TRIALS, RunFolder
from spaces.errors import UserError
from spaces.schema import Space

Change = Callable[[Path, random.Random], None]
LINES: tuple[bytes, ...] = (
    b"{}", b"[]", b"null", b"7", b'"text"', b'{"event": null}', b'{"event": ["row"]}', b'{"event": "row"}',
    b'{"event": "row", "trial": 0}', b'{"event": "row", "trial": "0", "state": "complete"}',
    b'{"event": "row", "trial": 0, "state": "over"}', b'{"event": "row", "trial": -1, "state": "complete"}',
    b'{"event": "row", "trial": 1e400, "state": "complete"}', b'{"event": "run_started"}',
    b'{"event": "run_ended", "state": 3}', b'{"event": "ask", "trial": 3}', b'{"event": "enqueue"}',
    b'{"event": "ask", "trial": 3, "values": []}', b'{"event": "learn", "values": {}}',
    b'{"event": "prepare"}', b'{"event": "warning"}', b"<<<<<<< ours", b"=======", b"", b"\xff\xfe\x00",
    b'{"event": "row", "trial": 0, "state": "complete", "nonfinite": 3}',
    b'{"event": "row", "trial": 0, "state": "complete", "nonfinite": {"perplexity": "many"}}',
    b'{"event": "row", "trial": 0, "state": "failed", "reason": "\\u001b[2J\\u001b]0;x\\u0007"}',
    b"{" * 100_000,
    b'{"event": "row", "trial": 0, "state": "complete", "perplexity": ' + b"9" * 400 + b"}",
    b'{"event": "row", "trial": 0, "state": "complete", "config.lora.rank": {"a": [1]}, "perplexity": "low"}',
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
)


def _insert(line: bytes) -> Change:
    def act(folder: Path, chance: random.Random) -> None:
        lines = (folder / EVENTS).read_bytes().split(b"\n")
        lines.insert(chance.randrange(len(lines)), line)
        (folder / EVENTS).write_bytes(b"\n".join(lines))
    return act


def _entry(folder: Path, chance: random.Random) -> None:
    """Some value of some entry is another."""
    lines = (folder / EVENTS).read_text(encoding="utf-8").splitlines()
    place = chance.randrange(len(lines))
    entry = json.loads(lines[place])
    anywhere(entry, chance, chance.choice([*ODD, *LARGE]))
    lines[place] = json.dumps(entry)
    (folder / EVENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _key(folder: Path, chance: random.Random) -> None:
    """Some entry lacks a key."""
    lines = (folder / EVENTS).read_text(encoding="utf-8").splitlines()
    place = chance.randrange(len(lines))
    entry = json.loads(lines[place])
    entry.pop(chance.choice(sorted(entry)))
    lines[place] = json.dumps(entry)
    (folder / EVENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _shuffled(folder: Path, chance: random.Random) -> None:
    """A merge by hand: entries twice, left out, in another order."""
    lines = (folder / EVENTS).read_bytes().splitlines(keepends=True)
    (folder / EVENTS).write_bytes(b"".join(chance.choices(lines, k=len(lines))))


def _meta(folder: Path, chance: random.Random) -> None:
    meta = json.loads((folder / META).read_text())
    anywhere(meta, chance, chance.choice([*ODD, *LARGE]))
    (folder / META).write_text(json.dumps(meta))


def _whole(name: str, contents: tuple[bytes, ...]) -> Change:
    return lambda folder, chance: (folder / name).write_bytes(chance.choice(contents)) and None


def _damaged(name: str) -> Change:
    return lambda folder, chance: _bytes_of(folder / name, chance)


def _gone(folder: Path, chance: random.Random) -> None:
    name = chance.choice([EVENTS, META, SPACE, STUDY, TRIALS, FRONT_JSON])
    (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(IndexError):
        chance.choice([(), (folder / name).mkdir, lambda: os.mkfifo(folder / name)][1:])()


def _space(folder: Path, chance: random.Random) -> None:
    lines = (folder / SPACE).read_text().splitlines()
    place = chance.randrange(len(lines))
    line = lines[place]
    lines[place:place + 1] = chance.choice([[], [line] * 2, ["  " + line], [line[:-1]], ["seed: 10"],
                                            ["[" * 9999]])
    (folder / SPACE).write_text("\n".join(lines) + "\n")


FOLDERS: dict[str, Change] = {
    **{f"line {number}": _insert(line) for number, line in enumerate(LINES)},
    **{f"entry {number}": _entry for number in range(12)}, **{f"key {number}": _key for number in range(6)},
    **{f"meta {number}": _meta for number in range(8)}, "shuffled": _shuffled, "gone": _gone, "gone 2": _gone,
    "meta whole": _whole(META, (b"[]", b"null", b"", b"7", b'"x"', b"{}", b"\xff", b'{"a":' * 9999)),
    "meta nested": lambda folder, chance: (folder / META).write_bytes(nested(chance)) and None,
    "lease": _whole("lease.json", (b"[]", b"{}", b'{"time": "x"}', b"", b'{"time": 1e999}', b"null")),
    **{f"bytes of {name}": _damaged(name) for name in (EVENTS, META, SPACE, STUDY, TRIALS, FRONT_JSON)},
    "space 1": _space, "space 2": _space, "front": _whole(FRONT_JSON, (b"[]", b"", b"{}")),
    "study": _whole(STUDY, (b"[]\n", b"\n\n", b"{}\n", b'{"op_code": 99}\n', b"x" * 999)),
}
COMMANDS = (["status"], ["front"], ["front", "--format", "json"], ["front", "--format", "csv"],
            ["watch", "--once"], ["report"], ["replay"], ["compare"])


def damaged(plain: Path, kind: str, seed: int, to: Path) -> Path:
    """A copy of the run folder `plain` at `to`, with what a kind of `FOLDERS` and a seed make of it."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(plain, to)
    FOLDERS[kind](to, random.Random(f"{kind}-{seed}"))
    return to


def example(folder: Path) -> Path:
    """A run folder of four trials as the engine leaves it; what they measure is made up."""
    from search.engine.engine import Engine
    from search.run.validation import problem
    from search.schedulers import registry
    from search.study.opening import open_search

    space = Space.from_dict({
        "name": "recorded", "objectives": {"perplexity": "minimize", "controllability": "maximize"},
        "search": {"adapt.optim.lr": {"log": [1e-4, 1e-1]}, "lora.rank": {"int": [0, 8]}}, "rungs": [5, 10],
        "sampler": "random", "budget": {"trials": 4}, "finish": {"repeats": 0},
        "box": {"perplexity": [1, 40], "controllability": [1, 0]}})
    with RunFolder.create(folder, space.name, space.to_yaml()) as run:
        study, _, judged = open_search(space, run, problem(space))
        engine = Engine(space, study, registry.build("halving", judged), run)
        run.event({"event": "run_started", "address": "", "run": "", "name": "recorded", "resumed": False})
        while (trial := engine.ask()) is not None:
            for rung, steps in enumerate(space.rungs):
                rank = trial.values["lora.rank"]
                if engine.report(trial.number, {
                        "rung": rung, "steps": steps, "final": rung == 1,
                        "perplexity": 5.0 + (rank - 5) ** 2 + 10 / steps,
                        "controllability": min(1.0, 0.5 + 0.1 * rank)}) == "stop":
                    break
        study.flush()
        run.event({"event": "run_ended", "state": "finished", **engine.summary()})
        run.write_front(engine.front)
        run.close("finished")
    return run.path


def said_by(command: list[str], run: Path) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command on a run, in this process. A bug raises."""
    from search.cli.main import main

    out, errors = io.StringIO(), io.StringIO()
    given = [command[0], str(run), *([str(run)] if command[0] == "compare" else []), *command[1:]]
    if command[0] == "report":
        given += ["--out", str(run.parent / "report.html")]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(given)
    return code, out.getvalue(), errors.getvalue()


def resumed(run: Path) -> str | None:
    """What `--resume` does before it needs workers: lock, study, engine. The line of a refusal, or None."""
    from search.engine.engine import Engine
    from search.run.validation import problem
    from search.schedulers import registry
    from search.study.opening import open_search

    try:
        folder = RunFolder.open(run).lock()
        with folder:
            space = Space.from_yaml(*folder.space_text())
            study, _, judged = open_search(space, folder, problem(space))
            scheduler = registry.build(space.scheduler.name, judged, space.scheduler.options)
            scheduler.restore(folder.rows())
            Engine(space, study, scheduler, folder).ask()
    except UserError as error:
        return str(error)
    return None


def complaint(run: Path, command: list[str] | None) -> str | None:
    """What is wrong with how a command (None: `--resume`) took a damaged run; None where it is right."""
    if command is None:
        line = resumed(run)
        return None if line is None or "\n" not in line else f"several lines: {line[:200]}"
    code, printed, said = said_by(command, run)
    one = len(said.splitlines()) <= 1 and len(said) < 1500 and bool(printed or said)
    return None if one and "\x1b" not in said + printed else f"exit {code}: {said[:300]!r}"
