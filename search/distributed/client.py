"""The users' side of the worker groups: lease one, run jobs on it. Light, because every trial's
actor imports it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import ray

from spaces.errors import RunError, UserError
from trainable.messages import (
    CloseJob,
    DoneReply,
    EndReply,
    EventReply,
    JobEvent,
    Lease,
    NextEvent,
    Payload,
    Reply,
    RungResult,
    StartJob,
)

_LOOK = 0.5  # seconds between two looks at who is silent, where somebody has to be patient


class JobError(RuntimeError):
    """The job raised; the group lives. `str()` is one line, `.traceback` the worker's."""

    def __init__(self, reason: str, trace: str = ""):
        super().__init__(reason)
        self.traceback = trace
        if trace:
            self.add_note(f"in the worker:\n{trace.rstrip()}")


class GroupDiedError(RunError):
    """The worker group died under the job (killed, out of memory, lost node)."""


class PoolError(RunError):
    """No worker group can be had: none starts, or the broker through which they are reached is gone."""


class DiskError(PoolError):
    """A worker's disk is full, and would be for the next job too."""


def get(refs: Any) -> Any:
    """What the broker answers to one or several calls. Raises PoolError when its process is gone."""
    try:
        return ray.get(refs)
    except ray.exceptions.RayActorError as error:
        raise PoolError("the process that hands out the workers died (killed, "
                        "or its machine was lost)") from error


class Group:
    """A leased group."""

    def __init__(self, broker: Any, name: str, owner: str):
        self.broker, self.name, self.owner = broker, name, owner

    def run(self, job: str, payload: Payload) -> Iterator[JobEvent]:
        """Run a job and yield its events. The worker computes an event only when it is asked for.

        Closing the iterator abandons the job. Raises JobError (or UserError, when the job raised one)
        and GroupDiedError.
        """
        ended, token = False, uuid.uuid4().hex
        try:
            _checked(get(self.call({"op": "start", "job": job, "payload": payload, "token": token})))
            while True:
                reply = _checked(get(self.call({"op": "next"})))
                if "event" not in reply:
                    ended = True
                    return
                yield reply["event"]
        except (JobError, GroupDiedError, UserError):
            ended = True  # the worker has closed the job, or there is no worker
            raise
        finally:
            if not ended:
                self.call({"op": "close", "token": token})

    def call(self, command: StartJob | NextEvent | CloseJob) -> ray.ObjectRef[Reply]:
        """Send one command; the reference resolves to the worker's reply."""
        return self.broker.call.remote(self.name, self.owner, command)

    def release(self) -> None:
        """Give the group back."""
        self.broker.release.remote(self.owner)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _checked(reply: Reply) -> EventReply | EndReply | DoneReply:
    if "terminated" in reply:
        raise JobError(reply["terminated"])
    if "died" in reply:
        raise GroupDiedError(reply["died"])
    if "error" in reply:
        if reply["disk"]:
            raise DiskError(f"a worker cannot write: {reply['error']}; make room, then go on with --resume")
        raise UserError(reply["error"]) if reply["user"] else JobError(reply["error"], reply["traceback"])
    return reply


class PoolClient:
    """Leases groups and runs jobs on them. Picklable: it holds the broker's handle alone."""

    def __init__(self, broker: Any):
        self.broker = broker

    def lease(self, owner: str | None = None) -> Group:
        """Wait for a free group. An owner that asks again gets the group it holds. Raises PoolError."""
        owner = owner or uuid.uuid4().hex
        return self._group(get(self.broker.lease.remote(owner)), owner)

    def _group(self, answer: Lease, owner: str) -> Group:
        if "broken" in answer:
            raise PoolError(answer["broken"])
        return Group(self.broker, answer["group"], owner)

    def wait_ready(self, groups: int = 1) -> None:
        """Return when that many groups take jobs. Raises PoolError when none can be started."""
        owners = [uuid.uuid4().hex for _ in range(groups)]
        try:
            for answer in get([self.broker.lease.remote(owner) for owner in owners]):
                self._group(answer, "")
        finally:
            for owner in owners:
                self.release(owner)

    def release(self, owner: str) -> None:
        """Free what `owner` holds, and abandon the job that runs there."""
        self.broker.release.remote(owner)

    def seconds_silent(self, owners: Sequence[str]) -> list[float | None]:
        """For each owner how many seconds its group has said nothing; None while it waits for a group."""
        return get(self.broker.seconds_silent.remote(list(owners)))

    def terminate(self, owner: str, reason: str) -> None:
        """End the job of `owner` at once, by killing the workers that it holds; the job fails
        with that reason."""
        for actor in get(self.broker.terminate.remote(owner, reason)):
            ray.kill(actor)
        self.release(owner)

    def map(self, tasks: Sequence[tuple[str, Payload]], on_event: Callable[[int, JobEvent], None]
            | None = None, *, patience: float | None = None, forgiving: bool = False,
            watch: Callable[[], None] | None = None) -> list[Any]:
        """Run several jobs on as many groups as are free; the last event of each, in order.

        `on_event(i, event)` sees every event of task i. A task whose group dies runs once more from its
        start; one that says nothing for `patience` seconds is ended and has failed. The first failure
        abandons the other tasks and is raised; if `forgiving`, it stands in the place of the task's event
        and the others go on. `watch` is called twice a second; what it raises abandons all.
        """
        owners = [uuid.uuid4().hex for _ in tasks]
        routines = {i: self._routine(i, *task, on_event or (lambda i, event: None), owners[i])
                    for i, task in enumerate(tasks)}
        results: dict[int, Any] = {}
        waiting = {next(routine): i for i, routine in routines.items()}
        looked, timeout = time.monotonic(), None if patience is None and watch is None else _LOOK
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout)
                if watch is not None:
                    watch()
                if patience is not None and time.monotonic() - looked >= _LOOK:
                    self._end_silent([owners[i] for i in waiting.values()], patience)
                    looked = time.monotonic()
                for ref in ready:
                    i = waiting.pop(ref)
                    try:
                        waiting[routines[i].send(get(ref))] = i
                    except StopIteration as done:
                        results[i] = done.value
                    except (JobError, GroupDiedError, UserError) as failed:
                        if not forgiving:
                            raise
                        results[i] = failed
        finally:
            for routine in routines.values():
                routine.close()
        return [results[i] for i in range(len(tasks))]

    def _end_silent(self, owners: Sequence[str], patience: float) -> None:
        for owner, seconds in zip(owners, self.seconds_silent(owners), strict=True):
            if seconds is not None and seconds > patience:
                self.terminate(owner, f"it said nothing for {patience:g} s (budget.trial_time)")

    def _routine(self, i: int, job: str, payload: Payload, on_event: Callable[[int, JobEvent], None],
                 owner: str, tries: int = 2) -> Generator[ray.ObjectRef, Any, JobEvent]:
        """`map`'s task as a coroutine: yields references, is sent what they resolve to, returns
        the last event."""
        try:
            while True:
                tries -= 1
                group = self._group((yield self.broker.lease.remote(owner)), owner)
                try:
                    return (yield from self._events(i, group, job, payload, on_event))
                except GroupDiedError:
                    if not tries:
                        raise
        finally:
            self.release(owner)

    @staticmethod
    def _events(i: int, group: Group, job: str, payload: Payload,
                on_event: Callable[[int, JobEvent], None]) -> Generator[ray.ObjectRef, Any, JobEvent]:
        _checked((yield group.call({"op": "start", "job": job, "payload": payload})))
        last: JobEvent = RungResult()
        while True:
            reply = _checked((yield group.call({"op": "next"})))
            if "event" not in reply:
                return last
            last = reply["event"]
            on_event(i, last)
