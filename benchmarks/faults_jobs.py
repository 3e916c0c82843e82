"""The driver of the fault drill: `python -m benchmarks.faults_jobs run ...` is `qdlm run ...` with
trials that only sleep.

A trial does what the file `fault` beside the shared folders says, and notes in `log` there when it begins and
ends. With QDLM_DRILL=slots it runs in the process of its Ray Tune slot, without worker groups, whose start
takes most of a short run.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 0.2
"""Of one rung; a trial has two."""
WEIGHT = 20_000
"""Bytes of an exported model."""


def prepare(payload: dict[str, Any], context: Any) -> Iterator[dict[str, Any]]:
    """Nothing to prepare: a folder."""
    folder = Path(payload["cache"]) / "made"
    folder.mkdir(exist_ok=True)
    yield {"progress": 1.0, "path": str(folder)}


def faulty(number: int, faults: str) -> str:
    """What a trial does wrong: of N `faults` (words), N trials of N + 1 do one each."""
    words = faults.split()
    return [*words, ""][number % (len(words) + 1)]


def trial(payload: dict[str, Any], context: Any) -> Iterator[dict[str, Any]]:
    """Two rungs and an artifact; what it measures follows from its values alone."""
    import ray

    number, values, folder = payload["number"], payload["values"], Path(payload["folder"])
    shared = Path(payload["prepared"]["base"]).parent
    fault = faulty(number, (shared / "fault").read_text() if (shared / "fault").exists() else "")

    def note(what: str) -> None:
        node = ray.get_runtime_context().get_node_id()
        with (shared / "log").open("a") as log:
            log.write(f"{what} {number} {time.time()} {os.getpid()} {node}\n")

    note("begin")
    yield {"ready": True}
    for rung in range(2):
        time.sleep(SECONDS)
        far = (math.log10(values["adapt.optim.lr"]) + 3.5) ** 2
        event = {"rung": rung, "steps": payload["rungs"][rung], "final": rung == 1, "perplexity": 1.0 + far
                 + 1.0 / (1 + values["lora.rank"] + rung), "size_bytes": 100.0 + values["lora.rank"]}
        if rung:
            if fault == "nan":
                event["perplexity"] = math.nan
            elif fault == "raise":
                raise ValueError("it broke")
            elif fault == "hang":
                time.sleep(3600)
            (folder / "artifact").mkdir(parents=True, exist_ok=True)
            (folder / "artifact" / "weights").write_bytes(os.urandom(WEIGHT))
            event["artifact"] = str(folder / "artifact")
            note("end")
        yield event


JOBS = {"corpus": prepare, "teacher": prepare, "base": prepare, "trial": trial}


class SlotGroup:
    """Runs jobs where it is asked to."""

    def run(self, job: str, payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The job's events."""
        return JOBS[job](payload, None)


class SlotClient:
    """What a run needs of a pool's client, without a pool."""

    def __init__(self, broker: Any):
        self.broker = broker

    def lease(self, owner: str) -> SlotGroup:
        """There is always a group."""
        return SlotGroup()

    def release(self, owner: str) -> None:
        """Nothing is held."""

    def map(self, tasks: list[tuple[str, dict]], on_event: Any = None,
            **options: Any) -> list[dict[str, Any]]:
        """The jobs' last events."""
        found = [list(JOBS[job](payload, None)) for job, payload in tasks]
        for index, events in enumerate(found):
            on_event(index, events[-1])
        return [events[-1] for events in found]


class SlotPool:
    """In the place of `worker_pool.WorkerPool`."""

    def __init__(self, *arguments: Any, **options: Any):
        pass

    def start(self) -> SlotPool:
        """A switchboard alone."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from search.distributed.broker import Broker

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        broker = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        self.client = SlotClient(broker.remote())
        return self

    def close(self) -> None:
        """Ray ends the switchboard."""


if __name__ == "__main__":
    from benchmarks import faults_jobs  # by its own name, so that other processes can unpickle what is in it
    from search.cli.main import main
    from search.run import sweep

    if os.environ.get("QDLM_DRILL") == "slots":
        from search.distributed import environment

        environment.apply(attach=True)
        import search.distributed.worker_pool

        search.distributed.worker_pool.WorkerPool = faults_jobs.SlotPool
    sweep.run = functools.partial(sweep.run, jobs="benchmarks.faults_jobs:JOBS")
    sys.exit(main())
