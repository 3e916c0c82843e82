"""The switchboard of a pool: one small actor through which drivers and trials talk to worker groups,
and which knows who holds which group. All waiting (for a free group, a command, a reply) happens here as
awaits, so nobody polls.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from search.distributed.single_flight import SUFFIX, SingleFlight
from search.distributed.slot_queue import SlotQueue
from trainable.messages import (
    CloseJob,
    Command,
    GroupInfo,
    Lease,
    NextEvent,
    Reply,
    StartJob,
    WorkerInfo,
    WorkerReply,
)


@dataclass
class _GroupState:
    """One worker group. `pending` maps the number of an unanswered command to whoever awaits its reply."""

    commands: asyncio.Queue[Command] = field(default_factory=asyncio.Queue)
    pending: dict[int, asyncio.Future[Reply]] = field(default_factory=dict)
    workers: dict[int, WorkerInfo] = field(default_factory=dict)
    owner: str | None = None
    ready: bool = False
    since: float = 0.0  # when its owner got it, or last sent a command or got a reply
    lent_to: str | None = None  # the group that uses its CPUs while it idles

    def touch(self) -> None:
        """Something happened between the group and its owner."""
        self.since = time.monotonic()


class Broker(SlotQueue, SingleFlight):
    """An async actor; its methods return messages, failures included, so that no caller unwraps
    remote exceptions."""

    def __init__(self) -> None:
        SlotQueue.__init__(self)
        SingleFlight.__init__(self)
        self.groups: dict[str, _GroupState] = {}
        self.dead: dict[str, str] = {}
        self.waiting: deque[tuple[str, asyncio.Future[Lease]]] = deque()
        self.broken: str | None = None
        self.seq = 0
        self.leaving = False

    # ---- called by workers
    async def register(self, group: str, rank: int, size: int, worker: WorkerInfo) -> None:
        """A worker has started. The group is free for leases once all its ranks are here."""
        entry = self.groups.setdefault(group, _GroupState())
        entry.workers[rank] = worker
        entry.ready = len(entry.workers) == size
        if self.leaving:  # it was still starting when the pool closed
            entry.commands.put_nowait({"op": "exit"})
        self._grant_leases()

    async def next_command(self, group: str) -> Command:
        """The next command for a group; waits for one."""
        return await self.groups[group].commands.get()

    async def borrow(self, group: str) -> int:
        """CPUs on the node of `group`, of one worker, whose groups idle: it may use them until it asks again.
        Each is lent once; while somebody waits for a group, none is."""
        own = self.groups[group].workers[0] if group in self.groups else None
        found = 0
        for entry in self.groups.values():
            if entry.lent_to == group:
                entry.lent_to = None
            lender = self.groups.get(entry.lent_to or "")
            idle = entry.ready and entry.owner is None and (lender is None or lender.owner is None)
            near = own is not None and all(one["node"] == own["node"] for one in entry.workers.values())
            if idle and near and not self.waiting:
                entry.lent_to = group
                found += sum(one["cpus"] for one in entry.workers.values())
        return found

    async def reply_to(self, group: str, seq: int, reply: WorkerReply) -> None:
        """A worker's reply to command `seq`."""
        waiter = self.groups[group].pending.pop(seq, None) if group in self.groups else None
        if waiter is not None and not waiter.done():
            self.groups[group].touch()
            waiter.set_result(reply)

    # ---- called by whoever uses a group
    async def lease(self, owner: str) -> Lease:
        """Wait for a free group. Asking again under the same owner gives the same group."""
        for group, entry in self.groups.items():
            if entry.owner == owner:
                return {"group": group}
        if self.broken:
            return {"broken": self.broken}
        waiter: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self.waiting.append((owner, waiter))
        self._grant_leases()
        return await waiter

    async def call(self, group: str, owner: str, command: StartJob | NextEvent | CloseJob) -> Reply:
        """Send a command and await its reply; `GroupDied` when the group is gone, goes meanwhile,
        or is another's."""
        if group not in self.groups:
            return {"died": self.dead.get(group, "unknown worker group")}
        if self.groups[group].owner != owner:
            return {"died": "the lease was withdrawn"}
        self.seq += 1
        self.groups[group].touch()
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.groups[group].pending[self.seq] = waiter
        numbered = command.copy()
        numbered["seq"] = self.seq
        self.groups[group].commands.put_nowait(numbered)
        return await waiter

    async def release(self, owner: str) -> None:
        """Give back whatever `owner` holds or waits for, also to make what it shares; the job still open
        there is closed."""
        owners = (owner, owner + SUFFIX)
        await self.withdraw(owner)
        for entry in self.groups.values():
            if entry.owner in owners:
                entry.owner = None
                entry.commands.put_nowait({"op": "close"})
        for holder, waiter in list(self.waiting):
            if holder in owners:
                self.waiting.remove((holder, waiter))
                waiter.set_result({"broken": "the lease was withdrawn"})
        self._grant_leases()

    async def seconds_silent(self, owners: list[str]) -> list[float | None]:
        """For each owner the seconds since its group was leased to it, was asked or answered;
        None without a group."""
        now, held = time.monotonic(), {entry.owner: entry.since for entry in self.groups.values()}
        return [now - held[owner] if owner in held else None for owner in owners]

    async def terminate(self, owner: str, reason: str) -> list[Any]:
        """The job of `owner` is over, whatever it computes: it learns the reason, and the group is
        nobody's any more. Returns the actors of the workers, for the caller to kill."""
        for entry in self.groups.values():
            if entry.owner == owner:
                entry.owner, entry.ready = "terminated", False
                for waiter in entry.pending.values():
                    if not waiter.done():
                        waiter.set_result({"terminated": reason})
                return [worker["actor"] for worker in entry.workers.values()]
        return []

    # ---- called by the pool that owns the groups
    async def group_died(self, group: str, reason: str) -> bool:
        """A group is gone: all who await it learn why. Returns whether it had ever been ready."""
        self.dead[group] = reason
        entry = self.groups.pop(group, None)
        for waiter in entry.pending.values() if entry else ():
            if not waiter.done():
                waiter.set_result({"died": reason})
        return entry is not None and (entry.ready or entry.owner is not None)

    async def refuse_leases(self, reason: str) -> None:
        """No group can be had: every lease, waiting or to come, is refused with this reason."""
        self.broken = reason
        while self.waiting:
            self.waiting.popleft()[1].set_result({"broken": reason})

    async def shut_down(self) -> None:
        """Tell every group to leave when it has answered what it was asked, those that are yet
        to come included."""
        self.leaving = True
        for entry in self.groups.values():
            entry.commands.put_nowait({"op": "exit"})

    async def workers(self) -> dict[str, GroupInfo]:
        """The living groups by their ids."""
        return {
            group: {"owner": entry.owner, "ready": entry.ready, "workers": dict(entry.workers)}
            for group, entry in self.groups.items()
        }

    def _grant_leases(self) -> None:
        """Hand free groups to those who wait, first come first served."""
        for group, entry in self.groups.items():
            if not self.waiting:
                return
            if entry.ready and entry.owner is None:
                owner = self.waiting[0][0]
                entry.owner, entry.lent_to = owner, None
                entry.touch()
                for holder, waiter in list(self.waiting):
                    if holder == owner:
                        self.waiting.remove((holder, waiter))
                        waiter.set_result({"group": group})
