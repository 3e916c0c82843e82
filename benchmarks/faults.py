"""The fault drill: what a run needs is killed, filled up, torn or locked under it, ten times each, for real.

    python -m benchmarks.faults                          every fault that has not been drilled ten times yet
    python -m benchmarks.faults --faults driver,worker   these alone
    python -m benchmarks.faults --minutes 4.5  stop between two faults after that long; call it again to go on

After every fault the records are audited (`faults_audit`): no trial lost, none run twice, the searcher where
it would have been. Trials sleep instead of training; driver, pool, Tune, engine and records are the product's
own, driven through its command line. `disk` mounts a small file system: without root it runs in a user
namespace of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import RESULTS, host, save
from benchmarks.faults_jobs import faulty
from benchmarks.faults_session import Drill, Nodes, Outcome, Session
from search.records.run_folder import RunFolder

DISK_BYTES = 8 << 20


def one_line(code: int | None, said: str, expected: int) -> str | None:
    """What is wrong with how a driver ended, if it should have ended with that code and one line."""
    lines = said.splitlines()
    if code == expected and len(lines) == 1 and "Traceback" not in said:
        return None
    return f"exit {code} (expected {expected}), {len(lines)} lines: {lines[-1:]}"


# ---- the faults: each yields one outcome per time, and last that of the whole run


def kill_driver(drill: Drill, times: int, chance: random.Random,
                after: Callable[[], None] = lambda: None) -> Iterator[Outcome]:
    """kill -9 of the driver a moment after a trial has ended, then --resume; every moment is another."""
    for _ in drill.rounds(times):
        session = drill.session()
        alive = session.wait_finished(2)
        time.sleep(chance.choice([0.0, 0.003, 0.01, 0.03, 0.1, 0.3]))
        session.kill()
        after()
        yield drill.audit(dead=None if alive else session.end()[1][-300:] or "nothing ended")
    yield drill.close()


def kill_ordered(drill: Drill, times: int, chance: random.Random) -> Iterator[Outcome]:
    """As `kill_driver`, of a deterministic run; then an unbroken run of the same space has to have
    proposed the same."""
    *each, whole = kill_driver(drill, times, chance)
    yield from each
    unbroken = Drill(drill.storage / "unbroken", drill.trials, drill.address, slots=drill.slots, **ORDERED)
    unbroken.session()
    unbroken.close()
    first, second = (proposals(one.run) for one in (drill, unbroken))
    other = [number for number in first | second if first.get(number) != second.get(number)]
    yield {**whole,
           "searcher": f"an unbroken run proposed another trial {other[0]}" if other else whole["searcher"]}


def proposals(run: Path) -> dict[int, Any]:
    """What was proposed under each number."""
    return {event["trial"]: event["values"]
            for event in RunFolder.open(run).events() if event["event"] == "ask"}


def torn_files(drill: Drill, times: int, chance: random.Random) -> Iterator[Outcome]:
    """As `kill_driver`, and the files are torn besides: half a line in the records and the study, a third
    of the table gone."""
    def tear() -> None:
        run = drill.run
        for name in ("events.jsonl", "study.journal"):
            with (run / name).open("ab") as file:
                file.write(b'{"time": 1.0, "event": "row", "trial": 0, "sta'[:chance.randrange(1, 40)])
        table = run / "trials.parquet"
        os.truncate(table, table.stat().st_size * 2 // 3)

    yield from kill_driver(drill, times, chance, tear)


def kill_worker(drill: Drill, times: int, chance: random.Random) -> Iterator[Outcome]:
    """kill -9 of a worker that computes a trial; the run goes on by itself."""
    session = drill.session()
    for _ in drill.rounds(times):
        pid, _ = drill.computing()
        os.kill(pid, signal.SIGKILL)
        yield {**_went_on(session, 3), **drill.audit()}
    yield drill.close()


def _went_on(session: Session, trials: int) -> Outcome:
    alive = session.wait_finished(trials)
    return {"dead": None if alive else session.end()[1][-300:] or "nothing ended"}


def kill_node(drill: Drill, times: int, chance: random.Random, whole: bool = True) -> Iterator[Outcome]:
    """kill -9 of all processes of a node that computes a trial (or of its raylet alone);
    another node joins."""
    session = drill.session()
    for _ in drill.rounds(times):
        _, computing = drill.computing()
        victim = next(node for node in CLUSTER.nodes if node.node_id == computing)
        raylet = victim.all_processes["raylet"][0].process
        processes = [psutil.Process(raylet.pid), *psutil.Process(raylet.pid).children(recursive=True)]
        for process in processes if whole else processes[:1]:
            process.kill()
        CLUSTER.replace(victim)
        yield {**_went_on(session, 3), **drill.audit()}
    yield drill.close()


def kill_raylet(drill: Drill, times: int, chance: random.Random) -> Iterator[Outcome]:
    """kill -9 of the raylet of a node that computes a trial."""
    yield from kill_node(drill, times, chance, whole=False)


def kill_head(drill: Drill, times: int, chance: random.Random) -> Iterator[Outcome]:
    """kill -9 of the raylet on which the driver itself rests: Ray ends the driver's process, at times
    with a line of its own, the last line says how to go on, and --resume does. Ray's processes live on for
    some seconds, and so do trials."""
    for _ in drill.rounds(times):
        session = drill.session()
        alive = session.wait_finished(2)
        raylets = [child
                   for child in psutil.Process(session.process.pid).children() if child.name() == "raylet"]
        for raylet in raylets:
            raylet.kill()
        code, said = session.end("Go on with: ")
        wrong = (one_line(code, said.strip().rpartition("\n")[2], 1)
                 or ("Go on with: " not in said and said) or None)
        yield drill.audit(dead=None if alive and raylets else said[-300:], said=said, wrong=wrong)
    yield drill.close()


def fill_disk(drill: Drill, times: int, chance: random.Random) -> Iterator[Outcome]:
    """The file system of the storage is filled to the last byte: the driver ends in one line; room
    is made, --resume."""
    filler = drill.storage / "filler"
    for _ in drill.rounds(times):
        session = drill.session()
        alive = session.wait_finished(2)
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 8, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue
        code, said = session.end()
        filler.unlink()
        yield drill.audit(dead=None if alive else said[-300:], said=said, wrong=one_line(code, said, 1))
    yield drill.close()


def hold_locks(drill: Drill, times: int, chance: random.Random) -> Iterator[Outcome]:
    """Another process holds the study's lock: the run waits, takes the lock over and goes on. A second
    driver on the run is refused in one line."""
    session = drill.session()
    for _ in drill.rounds(times):
        session.wait_finished(1)
        lock = drill.run / "study.journal.lock"
        while True:
            try:
                lock.symlink_to(drill.run / "study.journal")
                break
            except FileExistsError:
                time.sleep(0.001)
        second = Session("--resume", str(drill.run), *(["--address", drill.address] if drill.address else []),
                         slots=True)
        code, said = second.end()
        went = _went_on(session, 3)
        yield {**went, **drill.audit(said=said, wrong=one_line(code, said, 2))}
    yield drill.close()


def bad_trials(drill: Drill, times: int, chance: random.Random) -> Iterator[Outcome]:
    """Trials are at fault: each is a failed row with its reason, and the search goes on."""
    drill.session()
    whole = drill.close()
    ends = {row["trial"]: row for row in RunFolder.open(drill.run).rows() if row["state"] != "rung"}
    for number, row in ends.items():
        if fault := faulty(number, drill.fault):
            wrong = (None if row["state"] == "failed" and row["reason"]
                     else f"trial {number} ({fault}) is {row['state']}")
            yield {"lost": [], "twice": [], "searcher": None, "said": row["reason"], "wrong": wrong}
    blamed = [number
              for number, row in ends.items() if row["state"] == "failed" and not faulty(number, drill.fault)]
    yield {**whole, "wrong": f"trials {blamed} failed without a fault" if blamed else None}


CLUSTER = Nodes()
@dataclass(frozen=True)
class Fault:
    """How a fault is drilled: `act`; `trials` that a run needs for each time; `bad`: what its trials do
    wrong; `slots`: without worker groups; `alone`: the driver starts a cluster of its own."""

    act: Callable[[Drill, int, random.Random], Iterator[Outcome]]
    trials: int = 6
    bad: str = ""
    slots: bool = False
    alone: bool = False


FAULTS = {
    "driver": Fault(kill_driver, slots=True), "driver-and-groups": Fault(kill_driver),
    "ordered": Fault(kill_ordered, slots=True), "worker": Fault(kill_worker), "raylet": Fault(kill_raylet),
    "head": Fault(kill_head, trials=80, alone=True), "node": Fault(kill_node),
    "trials": Fault(bad_trials, trials=3, bad="nan raise"), "hang": Fault(bad_trials, trials=2, bad="hang"),
    "disk": Fault(fill_disk), "torn": Fault(torn_files, slots=True), "locked": Fault(hold_locks, slots=True),
}
ORDERED = {"deterministic": 3}


def drill(name: str, times: int, work: Path, seed: int, deadline: float) -> list[Outcome]:
    """The outcomes of that many times (fewer after the deadline), and that of the whole run last."""
    fault = FAULTS[name]
    storage = work / f"{name}-{seed}"
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir(parents=True)
    if name == "disk":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(storage)],
                       check=True)
    trials = fault.trials * times if fault.bad else fault.trials * times + 6
    changes: dict[str, Any] = ORDERED if name == "ordered" else {"scheduler": "none"} if fault.bad else {}
    if fault.bad == "hang":
        changes["budget"] = {"trials": trials, "trial_time": 2.0}
    run = Drill(storage, trials, None if fault.alone else CLUSTER.address, fault.bad, fault.slots, **changes)
    run.deadline = deadline
    try:
        outcomes = list(fault.act(run, times, random.Random(f"{name}-{seed}")))
        outcomes[-1]["whole"] = True
        return outcomes
    finally:
        for session in run.sessions:
            if session.process.poll() is None:
                session.kill()
        if name == "disk":
            subprocess.run(["umount", "-l", str(storage)], check=True)


PROBLEMS = {"lost": "lost", "twice": "run_twice", "searcher": "searcher_elsewhere", "dead": "dead",
            "wrong": "unclear"}


def outcome_sums(outcomes: list[Outcome], before: dict[str, Any]) -> dict[str, Any]:
    """Sums over all times of a fault, those of `before` included."""
    lines = Counter(before.get("said", {}))
    lines.update(_general(one["said"]) for one in outcomes if one.get("said") and "whole" not in one)
    counts = {name: before.get(name, 0) + sum(bool(one.get(key)) for one in outcomes)
              for key, name in PROBLEMS.items()}
    return {"times": before.get("times", 0) + sum("whole" not in one for one in outcomes),
            **counts, "trials": before.get("trials", 0) + int(outcomes[-1]["ended"]),
            "said": dict(lines.most_common(4)), "problems": before.get("problems", [])
            + [{**one, "said": _general(one.get("said") or "")} for one in outcomes
               if any(one.get(key) for key in PROBLEMS)]}


def _general(said: str) -> str:
    """What a driver said, without names of folders and numbers of processes."""
    return re.sub(r"\d+", "N", re.sub(r"/\S*/", ".../", " ".join(said.split())))


def drilled(part: str = "faults") -> dict[str, Any]:
    """What the results hold: of this drill, or of `benchmarks.faults_inputs`."""
    path = RESULTS / "faults.json"
    return json.loads(path.read_text()).get(part, {}) if path.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=10, metavar="N",
                        help="times in one run; further runs add to them")
    parser.add_argument("--minutes", type=float, default=float("inf"),
                        help="after that long, end what runs and begin nothing")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "qdlm-faults")
    parser.add_argument("--again", action="store_true", help="forget what was drilled of these faults")
    args = parser.parse_args()
    names = args.faults.split(",")
    if unknown := set(names) - FAULTS.keys():
        parser.error(f"unknown faults {', '.join(sorted(unknown))}; legal: {', '.join(FAULTS)}")
    if "disk" in names and os.geteuid() != 0:
        return subprocess.call(["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m",
                                "benchmarks.faults", *sys.argv[1:]])
    began, forgotten = time.monotonic(), set(names) if args.again else set()
    try:
        for name in names:
            while time.monotonic() - began < 60 * args.minutes:
                before = {} if name in forgotten else drilled().get(name, {})
                missing = args.times - before.get("times", 0)
                if missing <= 0:
                    break
                started = time.monotonic()
                outcomes = drill(name, min(missing, args.at_once), args.work, before.get("times", 0),
                                 began + 60 * args.minutes)
                minutes = round((time.monotonic() - started) / 60, 2)
                sums = {**outcome_sums(outcomes, before), "minutes": before.get("minutes", 0) + minutes,
                        "commit": host()["commit"]}
                print(name, json.dumps(sums, indent=1), flush=True)
                found, forgotten = {**drilled(), name: sums}, forgotten - {name}
                save("faults", {"faults": {key: found[key] for key in FAULTS if key in found},
                                "inputs": drilled("inputs"), "measuring": drilled("measuring")})
    finally:
        CLUSTER.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
