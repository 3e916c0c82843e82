"""A node is lost in the middle of a search: do its trials run again elsewhere, and does anything that ended get lost?

    python -m benchmarks.node_loss            Ray's test cluster: a head without trials and two nodes of one CPU

Trials sleep instead of training; everything else (pool, Tune, engine, records) is the product's own.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks.common import save
from search import ray_env
from search.records import RunFolder
from spaces.schema import Space

TRIALS, SECONDS, LOST_AFTER = 16, 1.0, 5
SPACE = {"name": "loss", "objectives": {"loss": "minimize", "size": "minimize"}, "rungs": [5, 10], "scheduler": "none",
         "search": {"adapt.optim.warmup": {"int": [0, TRIALS - 1]}}, "sampler": "grid", "finish": {"repeats": 0},
         "budget": {"trials": TRIALS}}


def prepare(payload, context):
    """Nothing to prepare: a folder."""
    folder = Path(payload["cache"]) / "made"
    folder.mkdir(exist_ok=True)
    yield {"progress": 1.0, "path": str(folder)}


def trial(payload, context):
    """Two rungs of `SECONDS`; the row's device is the node."""
    import ray

    node = ray.get_runtime_context().get_node_id()[:8]
    warmup, folder = payload["values"]["adapt.optim.warmup"], Path(payload["folder"])
    yield {"ready": True}
    for rung in range(2):
        time.sleep(SECONDS)
        event = {"rung": rung, "steps": payload["rungs"][rung], "final": rung == 1, "loss": 1.0 / (1 + warmup),
                 "size": float(warmup), "device": node}
        if rung:
            (folder / "artifact").mkdir(parents=True, exist_ok=True)
            event["artifact"] = str(folder / "artifact")
        yield event


JOBS = {"corpus": prepare, "teacher": prepare, "base": prepare, "trial": trial}


def main() -> None:
    """Run, kill a node after `LOST_AFTER` trials, count."""
    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_health_check_period_ms"] = "1000"
    os.environ["RAY_health_check_failure_threshold"] = "3"
    ray_env.apply()
    from ray.cluster_utils import Cluster

    from search import sweep

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    victim, gone = nodes[1], {}

    def told(event):
        if event["event"] == "trial_finished" and event["complete"] >= LOST_AFTER and not gone:
            gone["at"] = time.monotonic()
            threading.Thread(target=cluster.remove_node, args=(victim, False), daemon=True).start()

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as storage:
        result = sweep.run(Space.from_dict(SPACE), storage=Path(storage), address=cluster.address, observer=told,
                           jobs="benchmarks.node_loss:JOBS")
        rows = RunFolder.open(result.run_folder).rows()
        ended = {row["trial"]: row for row in rows if row["state"] in ("complete", "stopped", "failed")}
        figures = {
            "trials": TRIALS, "state": result.state, "seconds": round(time.monotonic() - started, 1),
            "states": Counter(row["state"] for row in ended.values()),
            "trials_by_node": sorted(Counter(row["device"] for row in ended.values()).values(), reverse=True),
            "ended_after_the_loss": sum(1 for row in ended.values()) - LOST_AFTER, "node_lost": bool(gone),
            "points_measured": len({row["config.adapt.optim.warmup"] for row in ended.values()
                                    if row["state"] == "complete"})}
    print(json.dumps(figures, indent=1))
    cluster.shutdown()
    save("node_loss", figures)


if __name__ == "__main__":
    main()
