"""How long a trial waits for its first training step, cold and warm:
`python -m benchmarks.trial_start --cache DIR`.

Cold: the start of a cluster, of a worker group (Ray Train's actors, torch) and the first trial on it,
which opens corpus and base; finding or making what is prepared is not counted. Warm: the same group again,
as every later trial of a run finds it. Each cold figure is a process of its own. `--cache` holds corpus,
teacher and base already, or is filled first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import save, spread

SPACE = "quickstart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", default="runs/cache")
    parser.add_argument("--repeats", type=int, default=5, help="processes")
    parser.add_argument("--warm", type=int, default=10, help="trials on each warm group")
    args = parser.parse_args()
    fresh = multiprocessing.get_context("spawn")
    found = []
    for _ in range(args.repeats):
        with fresh.Pool(1) as process:
            found.append(process.apply(starts, (str(Path(args.cache).resolve()), args.warm)))
            print(json.dumps(found[-1]), flush=True)
    figures = {"space": SPACE, "load_average": os.getloadavg()[0],
               "cold_seconds": {part: spread([one[part] for one in found])
                                for part in ("cluster", "group", "first_trial")},
               "cold_total_seconds": spread([sum(one[part] for part in ("cluster", "group", "first_trial"))
                                             for one in found]),
               "warm_seconds": spread([seconds for one in found for seconds in one["warm"]])}
    print(json.dumps(figures, indent=1))
    save("trial_start", figures)


def starts(cache: str, warm: int) -> dict[str, Any]:
    """Seconds in a fresh process: cluster up, group ready, first trial at its first training step;
    then `warm` more trials."""
    began = time.monotonic()
    from search.distributed.cluster import connected

    with tempfile.TemporaryDirectory() as scratch, connected(None) as _:
        connected_at = time.monotonic()
        from search.distributed.worker_pool import WorkerPool
        from spaces.schema import load

        space = load(SPACE)
        with WorkerPool(1, space.hardware, Path(scratch)) as pool:
            pool.client.wait_ready()
            ready_at = time.monotonic()
            payload = prepared(pool.client, space, cache)
            seconds = [first_step(pool.client, {**payload, "folder": str(Path(scratch) / f"trial-{number}")})
                       for number in range(1 + warm)]
    return {"cluster": connected_at - began, "group": ready_at - connected_at, "first_trial": seconds[0],
            "warm": seconds[1:]}


def prepared(client: Any, space: Any, cache: str) -> dict[str, Any]:
    """The payload of the space's unquantized trial; what it needs is made unless the cache holds it."""
    from search.run.first_points import unquantized_point
    from spaces import points

    config = space.config(points.complete(space.dimensions, unquantized_point(space))).model_dump(mode="json")
    Path(cache).mkdir(parents=True, exist_ok=True)
    shared: dict[str, str] = {}
    for kind in ("corpus", "teacher", "base"):
        (last,) = client.map([(kind, {"config": config, "cache": cache, **shared})])
        shared[kind] = last["path"]
    return {"config": config, "prepared": shared, "rungs": list(space.rungs)}


def first_step(client: Any, payload: dict[str, Any]) -> float:
    """Seconds from asking for a group to the trial's word that its first training step is next;
    the trial ends there."""
    began = time.monotonic()
    with client.lease() as group:
        events = group.run("trial", payload)
        assert next(events)["ready"]
        waited = time.monotonic() - began
        events.close()
    return waited


if __name__ == "__main__":
    main()
