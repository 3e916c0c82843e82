"""Warm worker groups: each is one long-lived Ray Train run that outlives trials and runs job after job.

Starting a Ray Train run costs seconds and many processes, a job on a warm group milliseconds. `Pool` owns the groups (it
starts them, replaces those that die, ends them); `Client` is the part that can be sent to other processes: it leases a free
group and runs jobs on it.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from search.ray_board import Board
from spaces.config import HardwareConfig
from spaces.errors import UserError

Event = dict[str, Any]
_START_ATTEMPTS = 3  # groups in a row that may fail before they were ever ready, until the pool gives up
_GRACE = 3.0  # seconds that a group gets to leave by itself when the pool closes


class JobError(RuntimeError):
    """The job raised; the group lives. `str()` is one line, `.traceback` the worker's."""

    def __init__(self, reason: str, trace: str = ""):
        super().__init__(reason)
        self.traceback = trace


class GroupDiedError(RuntimeError):
    """The worker group died under the job (killed, out of memory, lost node)."""


class PoolError(RuntimeError):
    """No worker group can be started."""


class Group:
    """A leased group."""

    def __init__(self, board: Any, name: str, owner: str):
        self.board, self.name, self.owner = board, name, owner

    def run(self, job: str, payload: dict[str, Any]) -> Iterator[Event]:
        """Run a job and yield its events. The worker computes an event only when it is asked for.

        Closing the iterator abandons the job. Raises JobError (or UserError, when the job raised one) and GroupDiedError.
        """
        ended = False
        try:
            _checked(ray.get(self.call({"op": "start", "job": job, "payload": payload})))
            while True:
                reply = _checked(ray.get(self.call({"op": "next"})))
                if "end" in reply:
                    ended = True
                    return
                yield reply["event"]
        except (JobError, GroupDiedError, UserError):
            ended = True  # the worker has closed the job, or there is no worker
            raise
        finally:
            if not ended:
                self.call({"op": "close"})

    def call(self, command: dict[str, Any]) -> ray.ObjectRef:
        """Send one command; the reference resolves to the worker's reply."""
        return self.board.call.remote(self.name, self.owner, command)

    def release(self) -> None:
        """Give the group back."""
        self.board.release.remote(self.owner)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _checked(reply: Event) -> Event:
    if "died" in reply:
        raise GroupDiedError(reply["died"])
    if "error" in reply:
        raise UserError(reply["error"]) if reply["user"] else JobError(reply["error"], reply["traceback"])
    return reply


class Client:
    """Leases groups and runs jobs on them. Picklable: it holds the board's handle alone."""

    def __init__(self, board: Any):
        self.board = board

    def lease(self, owner: str | None = None) -> Group:
        """Wait for a free group. An owner that asks again gets the group it holds. Raises PoolError."""
        owner = owner or uuid.uuid4().hex
        return self._group(ray.get(self.board.lease.remote(owner)), owner)

    def _group(self, answer: dict[str, Any], owner: str) -> Group:
        if "broken" in answer:
            raise PoolError(answer["broken"])
        return Group(self.board, answer["group"], owner)

    def wait_ready(self, groups: int = 1) -> None:
        """Return when that many groups take jobs. Raises PoolError when none can be started."""
        owners = [uuid.uuid4().hex for _ in range(groups)]
        try:
            for answer in ray.get([self.board.lease.remote(owner) for owner in owners]):
                self._group(answer, "")
        finally:
            for owner in owners:
                self.release(owner)

    def release(self, owner: str) -> None:
        """Free what `owner` holds, and abandon the job that runs there."""
        self.board.release.remote(owner)

    def map(self, tasks: Sequence[tuple[str, dict]], on_event: Callable[[int, Event], None] | None = None) -> list[Event]:
        """Run several jobs on as many groups as are free; the last event of each, in order.

        `on_event(i, event)` sees every event of task i. A task whose group dies runs once more from its start. The first
        failure abandons the other tasks and is raised.
        """
        routines = {i: self._routine(i, *task, on_event or (lambda i, event: None)) for i, task in enumerate(tasks)}
        results: dict[int, Event] = {}
        waiting = {next(routine): i for i, routine in routines.items()}
        try:
            while waiting:
                (ref, *_), _ = ray.wait(list(waiting), num_returns=1)
                i = waiting.pop(ref)
                try:
                    waiting[routines[i].send(ray.get(ref))] = i
                except StopIteration as done:
                    results[i] = done.value
        finally:
            for routine in routines.values():
                routine.close()
        return [results[i] for i in range(len(tasks))]

    def _routine(self, i: int, job: str, payload: dict, on_event: Callable[[int, Event], None], tries: int = 2):
        """`map`'s task as a coroutine: yields references, is sent what they resolve to, returns the last event."""
        owner = uuid.uuid4().hex
        try:
            while True:
                tries -= 1
                group = self._group((yield self.board.lease.remote(owner)), owner)
                try:
                    return (yield from self._events(i, group, job, payload, on_event))
                except GroupDiedError:
                    if not tries:
                        raise
        finally:
            self.release(owner)

    @staticmethod
    def _events(i: int, group: Group, job: str, payload: dict, on_event: Callable[[int, Event], None]):
        _checked((yield group.call({"op": "start", "job": job, "payload": payload})))
        last: Event = {}
        while True:
            reply = _checked((yield group.call({"op": "next"})))
            if "end" in reply:
                return last
            last = reply["event"]
            on_event(i, last)


class Pool:
    """`groups` warm worker groups on the connected cluster. `storage`: a folder for Ray Train's own small files."""

    def __init__(self, groups: int, hardware: HardwareConfig, storage: Path, *, jobs: str = "trainable.jobs:JOBS",
                 on_death: Callable[[str], None] | None = None):
        self.size, self.hardware, self.storage, self.jobs = groups, hardware, Path(storage).resolve(), jobs
        self.on_death = on_death or (lambda reason: None)
        self.name = uuid.uuid4().hex[:8]
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self.client: Client | None = None

    def start(self) -> Pool:
        """Start all groups in the background; `lease` waits for the first that is ready."""
        self.client = Client(ray.remote(Board).options(num_cpus=0, max_concurrency=1000).remote())
        for slot in range(self.size):
            thread = threading.Thread(target=self._keep, args=(slot,), daemon=True, name=f"group-{self.name}-{slot}")
            thread.start()
            self._threads.append(thread)
        return self

    @property
    def _board(self) -> Any:
        return self.client.board

    def workers(self) -> dict[str, dict[str, Any]]:
        """Living groups: {id: {"owner", "ready", "workers": {rank: {"pid", "actor"}}}}."""
        return ray.get(self._board.workers.remote())

    def close(self, wait: bool = True) -> None:
        """End all groups: those that are idle leave by themselves, those that still compute are killed.

        `wait=False` returns at once, for a caller that stops the whole cluster next.
        """
        self._closing.set()
        if self.client is None or not ray.is_initialized():
            return
        self._board.dismiss.remote()
        if wait:
            deadline = time.monotonic() + _GRACE
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            for group in self.workers().values() if any(thread.is_alive() for thread in self._threads) else ():
                for worker in group["workers"].values():
                    ray.kill(worker["actor"])
            for thread in self._threads:
                thread.join(20)
        ray.kill(self._board)
        self.client = None

    def __enter__(self) -> Pool:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, slot: int) -> None:
        """Thread of one slot: run a group; when it dies, tell the board and run the next one."""
        failures = 0
        for generation in range(1_000_000):
            group = f"{self.name}-{slot}-{generation}"
            reason = self._run_group(group)
            if self._closing.is_set():
                return
            was_ready = ray.get(self._board.died.remote(group, reason))
            self.on_death(reason)
            failures = 0 if was_ready else failures + 1
            if failures >= _START_ATTEMPTS:
                self._board.give_up.remote(f"worker groups do not start: {reason}")
                return

    def _run_group(self, group: str) -> str:
        """One Ray Train run, start to end; why it ended. The name is unique: Ray resumes an old run of the same name."""
        hardware = self.hardware
        resources = {"CPU": hardware.cpus, **({"GPU": hardware.gpus} if hardware.gpus else {})}
        trainer = TorchTrainer(
            _train_loop,
            train_loop_config={"group": group, "board": self._board, "jobs": self.jobs, "cpus": hardware.cpus,
                               "folder": str(Path.cwd())},
            scaling_config=ray.train.ScalingConfig(num_workers=hardware.workers, use_gpu=hardware.gpus > 0,
                                                   resources_per_worker=resources),
            torch_config=TorchConfig(backend="nccl" if hardware.gpus >= 1 else "gloo"),
            run_config=ray.train.RunConfig(
                name=group, storage_path=str(self.storage),
                failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0,
                                                       max_preemption_failures=0)),
        )
        try:
            trainer.fit()
        except ray.train.WorkerGroupError as error:
            fates = {rank: _died(why) for rank, why in sorted(error.worker_failures.items())}
            causes = {rank: fate for rank, fate in fates.items() if not fate.startswith("left")} or fates
            return "; ".join(f"worker {rank} {fate}" for rank, fate in causes.items())
        except Exception as error:  # whatever ended the run, the slot needs its reason and a new group
            return _first_line(error)
        return "the worker left"


def _train_loop(config: dict[str, Any]) -> None:
    """Imported in the worker alone: the driver needs no model code."""
    from trainable.worker import worker_loop

    worker_loop(config)


def _died(error: BaseException) -> str:
    """What became of one worker, from Ray Train's wrappers."""
    cause = getattr(error, "health_check_failure", None)
    if cause is None:
        return f"left: {_first_line(error)}"
    if isinstance(cause, ray.exceptions.OutOfMemoryError):
        return "was killed: its machine ran out of memory"
    if isinstance(cause, ray.exceptions.RayActorError):
        return "died (killed, crashed or out of memory)"
    return _first_line(cause)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
