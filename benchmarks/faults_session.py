"""What the fault drill holds: drivers with the events that they print, the run under them, a cluster
of several nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults_audit import audit
from spaces.schema import Space

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0
"""Seconds without what has to come until a search counts as dead."""
NOTICE = 10.0
"""Seconds within which the process that outlives a driver says how to go on."""
Outcome = dict[str, Any]


class Session:
    """A driver process and the events that it prints."""

    def __init__(self, *arguments: str, slots: bool = False):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([sys.executable, "-m", "benchmarks.faults_jobs", "run",
                                         *arguments, "--json"],
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True, cwd=ROOT,
                                        env={**os.environ, "QDLM_DRILL": "slots" if slots else "groups"})
        self.events: list[dict[str, Any]] = []
        self.news = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self.news:
                if line.endswith("\n"):
                    self.events.append(json.loads(line))
                self.news.notify_all()
        with self.news:
            self.news.notify_all()

    def finished(self) -> list[tuple[int, str]]:
        """Trials that the driver has told the end of."""
        return [(event["trial"], event["state"])
                for event in list(self.events) if event["event"] == "trial_finished"]

    def wait_finished(self, more: int) -> bool:
        """Wait until that many more trials have ended; False when they do not."""
        target, deadline = len(self.finished()) + more, time.monotonic() + PATIENCE
        with self.news:
            while len(self.finished()) < target:
                if (not self.reader.is_alive()
                        or not self.news.wait(min(1.0, max(0.0, deadline - time.monotonic())))
                        and time.monotonic() > deadline):
                    return len(self.finished()) >= target
        return True

    @property
    def run(self) -> Path | None:
        """The run folder, once it is known."""
        return next((Path(event["run"]) for event in list(self.events) if event.get("run")), None)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.end()

    def end(self, last: str = "") -> tuple[int | None, str]:
        """Wait for the end: exit code (None: it did not end, and was killed) and what stands
        on standard error, where `last` may come some seconds later, from the process that outlives it."""
        seen, since = -1, time.monotonic()
        while self.process.poll() is None and time.monotonic() - since < PATIENCE:
            if len(self.events) > seen:
                seen, since = len(self.events), time.monotonic()
            time.sleep(0.05)
        code = self.process.poll()
        self.process.kill()
        self.process.wait()
        self.reader.join(5)
        deadline = time.monotonic() + NOTICE
        while last not in (said := self._said()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return code, said

    def _said(self) -> str:
        # the place in the file is theirs who write to it
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode(errors="replace").strip()


class Drill:
    """One run under one fault. `storage` holds the run and what its trials share."""

    def __init__(self, storage: Path, trials: int, address: str | None, fault: str = "", slots: bool = False,
                 **changes: Any):
        """`fault`: what trials do wrong, and `slots`: where they run (`faults_jobs`); `changes`:
        to the space."""
        self.storage, self.trials, self.address, self.fault, self.slots = (storage, trials, address,
                                                                           fault, slots)
        self.sessions: list[Session] = []
        self.deadline = float("inf")
        (storage / "cache").mkdir(parents=True, exist_ok=True)
        if fault:
            (storage / "cache" / "fault").write_text(fault)
        space = Space.from_dict({
            "name": "drill", "objectives": {"perplexity": "minimize", "size_bytes": "minimize"},
            "rungs": [5, 10],
            "search": {"adapt.optim.lr": {"log": [1e-5, 1e-2]}, "lora.rank": {"int": [0, 64]}},
            "sampler": {"name": "tpe", "startup": 5}, "finish": {"repeats": 0}, "budget": {"trials": trials},
            **changes})
        (storage / "space.yaml").write_text(space.to_yaml())

    @property
    def run(self) -> Path | None:
        """The run folder, once there is one."""
        return next((session.run for session in self.sessions if session.run), None)

    def rounds(self, times: int) -> Iterator[int]:
        """That many, fewer when the deadline comes first, but one."""
        for done in range(times):
            if done and time.monotonic() > self.deadline:
                return
            yield done

    def session(self) -> Session:
        """Start the run, or go on with it."""
        go_on = (["--resume", str(self.run)] if self.run
                 else [str(self.storage / "space.yaml"), "--storage", str(self.storage)])
        there = ["--address", self.address] if self.address else []
        self.sessions.append(Session(*go_on, *there, slots=self.slots))
        return self.sessions[-1]

    def log(self) -> list[list[str]]:
        """The jobs' notes: begin or end, trial, time, process, node."""
        path = self.storage / "cache" / "log"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def computing(self) -> tuple[int, str]:
        """Process and node of a trial that has begun and not ended; waits for one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            log = self.log()
            ended = {number for what, number, *_ in log if what == "end"}
            for _, number, _, pid, node in reversed(log):
                if number not in ended and psutil.pid_exists(int(pid)):
                    return int(pid), node
            time.sleep(0.02)
        raise TimeoutError("no trial is computing")

    def audit(self, over: bool = False, **more: Any) -> Outcome:
        """The records after a fault."""
        seen = [end for session in self.sessions for end in session.finished()]
        return {**audit(self.run, self.storage / "cache" / "log", seen, self.trials if over else None),
                **more}

    def close(self) -> Outcome:
        """Go on to the end of the run, and audit the whole."""
        last = self.sessions[-1] if self.sessions[-1].process.poll() is None else self.session()
        code, said = last.end()
        return self.audit(over=True, code=code, said=said)


class Nodes:
    """Ray's own test cluster, started when it is first needed: a head without trials and two
    nodes of one CPU."""

    def __init__(self) -> None:
        self.cluster: Any = None
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        if self.cluster is None:
            os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            os.environ |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3",
                           # the same for the cluster and for drivers that attach to it
                           "RAY_AUTH_MODE": "disabled"}
            from search.distributed import environment

            environment.apply()
            from ray.cluster_utils import Cluster

            self.cluster = Cluster(initialize_head=True,
                                   head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
            for _ in range(2):
                self.add()
        return self.cluster.address

    def add(self) -> None:
        """One more node."""
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=100 << 20))

    def replace(self, victim: Any) -> None:
        """Sweep up a dead node, and add another."""
        self.nodes.remove(victim)
        self.cluster.remove_node(victim, allow_graceful=False)
        self.add()

    def close(self) -> None:
        """End it, if it was started."""
        if self.cluster is not None:
            self.cluster.shutdown()
