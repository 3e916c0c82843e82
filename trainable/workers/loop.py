"""The loop of a warm worker: one Ray Train worker that runs job after job until it is told to leave.

A *job* is a generator `job(payload, context)`; `trainable.messages` has its payloads and events. The loop
asks it for one event at a time, so the driver decides after each event whether it goes on. A job that raises
costs only itself: its reason and traceback travel back and the worker takes the next one. In a group of
several workers rank 0 alone talks to the driver; it broadcasts each command, all ranks run the same job in
step, and the events of rank 0 are the ones that leave.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from spaces.errors import UserError, one_line
from spaces.importing import importing
from trainable.artifacts.malloc import keep_heap
from trainable.messages import Command, ErrorReply, JobEvent, WorkerConfig, WorkerInfo, WorkerReply
from trainable.storage.depot import Depot, with_depot
from trainable.storage.window import Window
from trainable.workers.context import WorkerContext

Job = Callable[[Any, WorkerContext], Iterator[JobEvent]]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# how long a rank may wait for the others: they may be measuring, or nobody may want anything
_IDLE = timedelta(days=30)
# a rank that failed waits no longer for ranks that may hang in a collective
_AFTER_ERROR = timedelta(seconds=60)


def load_jobs(path: str) -> dict[str, Job]:
    """The job table at `module:ATTRIBUTE`."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


class JobRunner:
    """Holds at most one open job and answers commands about it. Knows nothing of Ray."""

    def __init__(self, jobs: dict[str, Job], context: WorkerContext):
        self.jobs, self.context = jobs, context
        self.job: Iterator[JobEvent] | None = None
        self.token: str | None = None
        self.clean = False
        self._modules = 0

    def handle(self, command: Command) -> WorkerReply:
        """Answer `start`, `next` or `close`."""
        try:
            return self._handle(command)
        except (Exception, SystemExit) as error:
            return {"error": one_line(error), "traceback": traceback.format_exc(),
                    "user": isinstance(error, UserError), "disk": _full(error)}

    def _handle(self, command: Command) -> WorkerReply:
        if command["op"] == "next":
            if self.job is None:
                raise RuntimeError("no job is open on this worker")
            with self.context.window.computing():
                event = next(self.job, None)
            return {"end": True} if event is None else {"event": event}
        if command["op"] == "close" and command.get("token", self.token) != self.token:
            return {"ok": True}  # overtaken: the job that was meant has been closed already
        self.clear()
        if command["op"] == "start":
            self.clean, self.token = False, command.get("token")
            self.job = self.jobs[command["job"]](command["payload"], self.context)
        return {"ok": True}

    def clear(self) -> None:
        """Close the open job and undo what it may have left in the process, so that nothing leaks
        into the next one."""
        if self.clean:
            return
        job, self.job = self.job, None
        try:
            if job is not None and hasattr(job, "close"):
                job.close()
        finally:
            del job
            seed_everything(0)
            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float32)
            torch.set_num_threads(self.context.cpus)
            if torch.are_deterministic_algorithms_enabled():
                torch.use_deterministic_algorithms(False)
            self._collect()
            if self.context.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            self.clean = True

    def _collect(self) -> None:
        """Collect garbage, and leave out of later collections what was imported meanwhile: it never dies, and
        to go through it takes ten times as long as to begin a trial."""
        gc.collect()
        if len(sys.modules) > self._modules:
            self._modules = len(sys.modules)
            gc.freeze()


def seed_everything(seed: int) -> None:
    """Put every global random generator at `seed`; jobs use generators of their own, libraries may not."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _full(error: BaseException | None) -> bool:
    """Whether the disk is to blame, and not the job. Libraries wrap the error, or only tell of it."""
    while error is not None:
        if getattr(error, "errno", None) in _DISK or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class Ranks:
    """Keeps the workers of one group in step, over a gloo group of its own (commands are host objects,
    idle time is long)."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        self.group = dist.new_group(backend="gloo", timeout=_IDLE) if size > 1 else None

    def broadcast(self, command: Command | None) -> Command:
        """The command of rank 0, which alone has one, on every rank."""
        box: list[Any] = [command]
        if self.group is None:
            return box[0]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def agree(self, reply: WorkerReply) -> WorkerReply:
        """One answer for the group: rank 0's (the others get its kind), unless some rank failed.
        A rank whose job has ended already just waits.

        Raises RuntimeError, which ends the group, when a rank failed and the others do not come (they wait
        for it in a collective operation that will never complete).
        """
        if self.group is None:
            return reply
        failed = "error" in reply
        try:
            dist.monitored_barrier(self.group, timeout=_AFTER_ERROR if failed else _IDLE)
        except RuntimeError as hung:
            raise RuntimeError(f"worker {self.rank}: {reply.get('error', one_line(hung))}") from hung
        replies: list[Any] = [{}] * self.size
        dist.all_gather_object(replies, reply if failed else {key: True for key in reply}, group=self.group)
        for rank, other in enumerate(replies):
            if "error" in other:
                return (other if rank == 0
                        else cast(ErrorReply, {**other, "error": f"worker {rank}: {other['error']}"}))
        return reply if self.rank == 0 else replies[0]


def worker_loop(config: WorkerConfig) -> None:
    """Ray Train's train loop."""
    train = ray.train.get_context()
    rank, size = train.get_world_rank(), train.get_world_size()
    broker, group = config["broker"], config["group"]
    if os.path.isdir(config["folder"]):
        os.chdir(config["folder"])
    cpus = max(1, int(config["cpus"]))
    torch.set_num_threads(cpus)
    keep_heap()
    with importing():
        jobs = load_jobs(config["jobs"])
    depot = Depot(**config["store"]) if config["store"] else None
    runner = JobRunner(with_depot(jobs, depot) if depot else jobs,
                       WorkerContext(ray.train.torch.get_device(), rank, size, cpus, depot=depot,
                                     window=Window(None) if rank else Window.of_node(),
                                     spare=lambda: _borrow(broker, group)))
    ranks = Ranks(rank, size)
    runner.clear()
    here = ray.get_runtime_context()
    worker: WorkerInfo = {"pid": os.getpid(), "actor": here.current_actor, "node": here.get_node_id(),
                          "cpus": int(config["cpus"])}
    ray.get(broker.register.remote(group, rank, size, worker))
    while True:
        command = ranks.broadcast(_next_command(broker, group) if rank == 0 else None)
        if command["op"] == "exit":
            return runner.clear()
        reply = ranks.agree(runner.handle(command))
        if rank == 0 and command.get("seq") is not None:
            broker.reply_to.remote(group, command["seq"], reply)
        if "end" in reply or "error" in reply:
            runner.clear()


def _borrow(broker: Any, group: str) -> int:
    """See `Broker.borrow`; nothing from one that is gone."""
    try:
        return ray.get(broker.borrow.remote(group))
    except ray.exceptions.RayActorError:
        return 0


def _next_command(broker: Any, group: str) -> Command:
    """The next command for this group; `exit` when the driver and its broker are gone."""
    try:
        return ray.get(broker.next_command.remote(group))
    except ray.exceptions.RayActorError:
        return {"op": "exit"}
