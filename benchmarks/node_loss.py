"""A node is lost in the middle of a search: do its trials run again elsewhere, and does anything
that ended get lost?

    python -m benchmarks.node_loss         Ray's test cluster: a head without trials, two nodes of one CPU
    python -m benchmarks.node_loss --uri   the same on a bucket (a server here): nodes share no folder

Trials sleep instead of training; everything else (pool, Tune, engine, records) is the product's own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.common import save
from search.distributed import environment
from search.records.run_folder import RunFolder
from spaces.schema import Space
from spaces.uris import HOME, joined
from trainable.storage.folders import whole_folder, write_manifest

TRIALS, SECONDS, LOST_AFTER = 16, 1.0, 5
SPACE = {"name": "loss", "objectives": {"loss": "minimize", "size": "minimize"}, "rungs": [5, 10],
         "scheduler": "none", "search": {"adapt.optim.warmup": {"int": [0, TRIALS - 1]}}, "sampler": "grid",
         "finish": {"repeats": 0}, "budget": {"trials": TRIALS}}


def prepare(payload, context):
    """Nothing to prepare: a folder with a file."""
    folder = Path(payload["cache"]) / "made"
    if made := not context.present(folder):
        with whole_folder(folder) as aside:
            (aside / "text").write_text("shared")
    yield {"progress": 1.0, "path": str(folder), "made": made}


def trial(payload, context):
    """Two rungs of `SECONDS`, with a checkpoint; the row's device is the node, `began` the rung with
    which its work began."""
    import ray

    node = ray.get_runtime_context().get_node_id()[:8]
    warmup, folder = payload["values"]["adapt.optim.warmup"], Path(payload["folder"])
    assert all((Path(place) / "text").is_file() for place in payload["prepared"].values())
    checkpoint = folder / "checkpoint.pt"
    began = int(checkpoint.read_text()) if checkpoint.is_file() else 0
    yield {"ready": True}
    for rung in range(began, 2):
        time.sleep(SECONDS)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(str(rung + 1))
        event = {"rung": rung, "steps": payload["rungs"][rung], "final": rung == 1,
                 "loss": 1.0 / (1 + warmup), "size": float(warmup), "device": node, "began": began}
        if rung:
            (folder / "artifact").mkdir(exist_ok=True)
            (folder / "artifact" / "samples.json").write_text("[]")
            write_manifest(folder / "artifact")
            event["artifact"] = str(folder / "artifact")
        yield event


JOBS = {"corpus": prepare, "teacher": prepare, "base": prepare, "trial": trial}


def main(uri: bool = False) -> None:
    """Run, kill a node after `LOST_AFTER` trials, count."""
    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_health_check_period_ms"] = "1000"
    os.environ["RAY_health_check_failure_threshold"] = "3"
    environment.apply()
    with tempfile.TemporaryDirectory() as folder, bucket() if uri else nullcontext(folder) as storage:
        figures = drill(storage, Path(folder) if uri else None)
    print(json.dumps(figures, indent=1))
    save("node_loss_uri" if uri else "node_loss", figures)


def drill(storage: str, homes: Path | None) -> dict[str, Any]:
    """The figures of one run. `homes`: each node, and the driver, has a folder of its own in it for
    what lies at URIs."""
    from ray.cluster_utils import Cluster

    from search.run import sweep

    def home(name: str) -> dict[str, Any]:
        return {"env_vars": {HOME: str(homes / name)}} if homes else {}

    if homes:
        os.environ[HOME] = str(homes / "driver")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1, **home(f"node-{number}")) for number in range(2)]
    cluster.wait_for_nodes()
    gone: dict[str, float] = {}

    def observer(event: dict[str, Any]) -> None:
        if event["event"] == "rung" and event["complete"] >= LOST_AFTER and not gone:
            gone["at"] = time.monotonic()
            threading.Thread(target=cluster.remove_node, args=(nodes[1], False), daemon=True).start()

    started = time.monotonic()
    result = sweep.run(Space.from_dict(SPACE), storage=storage, address=cluster.address, observer=observer,
                       jobs="benchmarks.node_loss:JOBS")
    seconds = time.monotonic() - started
    rows = RunFolder.open(result.run_folder).rows()
    ended = {row["trial"]: row for row in rows if row["state"] in ("complete", "stopped", "failed")}
    cluster.shutdown()
    figures = {
        "trials": TRIALS, "state": result.state, "seconds": round(seconds, 1),
        "states": Counter(row["state"] for row in ended.values()),
        "trials_by_node": sorted(Counter(row["device"] for row in ended.values()).values(), reverse=True),
        "ended_after_the_loss": len(ended) - LOST_AFTER, "node_lost": bool(gone),
        "went_on_from_a_checkpoint": sum(row["began"] > 0 for row in ended.values()),
        "points_measured": len({row["config.adapt.optim.warmup"]
                                for row in ended.values() if row["state"] == "complete"})}
    if homes:
        from trainable.storage.object_store import Store

        kept = Store(joined(storage, result.run_folder.name)).sizes("artifacts")
        figures["front"], figures["artifacts_at_the_uri"] = (len(result.front),
                                                             len({name.split("/")[0] for name in kept}))
        figures["shared_made"] = sum(entry["made"] for entry in RunFolder.open(result.run_folder).events()
                                     if entry["event"] == "prepare")
    return figures


@contextmanager
def bucket() -> Iterator[str]:
    """The URI of an empty bucket on a server of this machine."""
    from moto.server import ThreadedMotoServer

    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test",
                      AWS_EC2_METADATA_DISABLED="true")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        urlopen(Request(f"http://{host}:{port}/bucket", method="PUT")).read()
        yield f"s3://bucket/runs?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    finally:
        server.stop()


if __name__ == "__main__":
    main(sys.argv[1:] == ["--uri"])
