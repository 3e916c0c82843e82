"""Warm worker groups: each is one long-lived Ray Train run that outlives trials and runs job after job.

Starting a Ray Train run costs seconds and many processes, a job on a warm group milliseconds. `WorkerPool`
starts the groups, replaces those that die and ends them; `search.distributed.client.PoolClient` is
how others use them.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.distributed.broker import Broker
from search.distributed.client import PoolClient, PoolError, get
from search.distributed.compat import lean
from spaces.config import HardwareConfig
from spaces.importing import importing
from trainable.messages import DepotSettings, GroupInfo, WorkerConfig

_START_ATTEMPTS = 3  # groups in a row that may die before they were ever ready, until the pool gives up
_PATIENCE = 60.0  # seconds without any group ready, after which the user hears of it
_WAITING = {False: "others may be using the cluster, or nodes were lost",
            True: "this machine is busy, or short of memory"}
"""What may be the reason, by whether the cluster is the run's own."""
_STARTING = 60.0  # seconds that a closing pool waits for groups that are still starting
_GRACE = 3.0  # seconds that a group gets to leave by itself when the pool closes


class WorkerPool:
    """`groups` warm worker groups on the connected cluster. `storage`: a folder for Ray Train's
    own small files; `store`: settings of the workers' `trainable.storage.depot.Depot` when the run's
    storage is a URI; `private`: nobody else uses the cluster."""

    def __init__(self, groups: int, hardware: HardwareConfig, storage: Path, *,
                 jobs: str = "trainable.workers.jobs:JOBS",
                 on_notice: Callable[[str], None] | None = None, store: DepotSettings | None = None,
                 private: bool = False):
        self.size, self.hardware, self.storage, self.jobs = groups, hardware, Path(storage).resolve(), jobs
        self.on_notice, self.store = on_notice or (lambda reason: None), store
        self.private = private
        self.name = uuid.uuid4().hex[:8]
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._current: dict[int, str] = {}
        self._client: PoolClient | None = None

    def start(self) -> WorkerPool:
        """Start all groups in the background (once); `lease` waits for the first that is ready."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        calls = 1000 + 8 * self.size * self.hardware.workers  # each slot and each worker waits in one
        # no other node's loss
        broker = ray.remote(Broker).options(num_cpus=0, max_concurrency=calls, scheduling_strategy=here)
        self._client = PoolClient(broker.remote())
        self._threads = [threading.Thread(target=self._keep_group, args=(slot, self._broker), daemon=True)
                         for slot in range(self.size)]
        self._threads.append(threading.Thread(target=self._warn_while_waiting, daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    @property
    def client(self) -> PoolClient:
        """For whoever uses the groups, between `start` and `close`."""
        assert self._client is not None, "start comes first"
        return self._client

    @property
    def _broker(self) -> Any:
        return self.client.broker

    def workers(self) -> dict[str, GroupInfo]:
        """The living groups by their ids. Raises PoolError without a broker."""
        return get(self._broker.workers.remote())

    def close(self) -> None:
        """End all groups: idle ones leave by themselves, those that compute are killed, those that
        start are waited for.

        Returns when no thread of the pool uses Ray any more: a Ray that is shut down under one ends the whole
        process, and with it whatever was still to be printed.
        """
        self._closing.set()
        if self._client is None or not ray.is_initialized():
            return
        self._broker.shut_down.remote()
        _join(self._threads, _GRACE)
        if any(thread.is_alive() for thread in self._threads):
            with suppress(PoolError):  # without a broker the workers leave as soon as they ask it for work
                for group in self.workers().values():
                    for worker in group["workers"].values():
                        ray.kill(worker["actor"])
            _join(self._threads, _STARTING)
        ray.kill(self._broker)
        self._client = None

    def __enter__(self) -> WorkerPool:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warn_while_waiting(self) -> None:
        """Thread: say what is being waited for, whenever no group is ready for long; more and more rarely."""
        patience = _PATIENCE
        while not self._closing.wait(patience):
            try:
                ready = any(group["ready"] for group in self.workers().values())
            except PoolError:  # whoever uses the pool learns it from the broker's next answer
                return
            patience = _PATIENCE if ready else 2 * patience
            if not ready:
                each = (f"{self.hardware.workers} x {self.hardware.cpus:g} CPU(s), "
                        f"{self.hardware.gpus:g} GPU(s)")
                self.on_notice(f"still waiting for a worker group to start ({each}); "
                               + _WAITING[self.private])

    def _keep_group(self, slot: int, broker: Any) -> None:
        """Thread of one slot: run a group; when it dies, tell the broker and run the next one."""
        failures = 0
        for generation in range(1_000_000):
            self._current[slot] = group = f"{self.name}-{slot}-{generation}"
            reason, hopeless = self._run_group(group, broker)
            if self._closing.is_set():
                return
            try:
                was_ready = get(broker.group_died.remote(group, reason))
            except PoolError:  # whoever uses the pool learns it from the broker's next answer
                return
            failures = 0 if was_ready else failures + 1
            if not was_ready and (hopeless or failures >= _START_ATTEMPTS):
                broker.refuse_leases.remote(f"worker groups do not start: {reason}")
                return
            self.on_notice(f"a worker group died and is replaced: {reason}")

    def _run_group(self, group: str, broker: Any) -> tuple[str, bool]:
        """One Ray Train run, start to end: why it ended, and whether the worker's own loop raised
        (which it would again).

        The run's name is unique, because Ray Train resumes an old run of the same name.
        """
        hardware = self.hardware
        resources = {"CPU": hardware.cpus, **({"GPU": hardware.gpus} if hardware.gpus else {})}
        config: WorkerConfig = {"group": group, "broker": broker, "jobs": self.jobs, "cpus": hardware.cpus,
                                "folder": str(Path.cwd()), "store": self.store}
        trainer = TorchTrainer(
            _train_loop,
            train_loop_config=dict(config),
            scaling_config=ray.train.ScalingConfig(num_workers=hardware.workers, use_gpu=hardware.gpus > 0,
                                                   resources_per_worker=resources),
            torch_config=TorchConfig(backend="nccl" if hardware.gpus >= 1 else "gloo"),
            run_config=ray.train.RunConfig(
                name=group, storage_path=str(self.storage),
                # the types are those of Ray Train's first version
                failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0)),
        )
        lean(trainer)
        try:
            trainer.fit()
        except ray.train.WorkerGroupError as error:
            fates = {rank: _cause_of_death(why) for rank, why in sorted(error.worker_failures.items())}
            causes = {rank: fate for rank, fate in fates.items() if not fate.startswith("left: ")} or fates
            return "; ".join(f"worker {rank} {fate}" for rank, fate in causes.items()), causes is fates
        except (Exception, SystemExit) as error:  # SystemExit: Ray was shut down meanwhile
            # whatever ended the run, the slot needs its reason and a new group
            return _first_line(error), False
        return "the workers left", False


def _train_loop(config: dict[str, Any]) -> None:
    """Imported in the worker alone: the driver needs no model code."""
    with importing():
        from trainable.workers.loop import worker_loop

    worker_loop(cast(WorkerConfig, config))


def _join(threads: list[threading.Thread], seconds: float) -> None:
    """Wait for all of them, that long altogether."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _cause_of_death(error: BaseException) -> str:
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
