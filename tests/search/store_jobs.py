"""Toy jobs for a storage at a URI: whole folders, checkpoints, and a log of where each was worked on."""

import os
import time
from pathlib import Path

import ray

from trainable.storage.folders import whole_folder, write_manifest


def place():
    """This node's folder for what lies at URIs."""
    return os.environ["QDLM_CACHE"]


def prepare(payload, context):
    """A folder that is shared, made only where it is not there yet."""
    folder = Path(payload["cache"]) / f"made-{payload['config']['base']['seed']}"
    made = not context.present(folder)
    if made:
        with whole_folder(folder) as aside:
            (aside / "text").write_text("shared")
    yield {"progress": 1.0, "path": str(folder), "made": made}


def trial(payload, context):
    """Two rungs; says how many it found done. Kills its worker once when the file `die` is there."""
    for each in payload["prepared"].values():
        assert each.startswith(place()) and (Path(each) / "text").read_text() == "shared"
    warmup, folder = payload["values"]["adapt.optim.warmup"], Path(payload["folder"])
    assert str(folder).startswith(place())
    checkpoint = folder / "checkpoint.pt"
    began = int(checkpoint.read_text()) if checkpoint.is_file() else 0
    node = ray.get_runtime_context().get_node_id()[:8]
    yield {"ready": True}
    for rung in range(began, 2):
        time.sleep(payload["config"]["adapt"]["optim"]["clip"])
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(str(rung + 1))
        event = {"rung": rung, "steps": payload["rungs"][rung], "final": rung == 1,
                 "loss": 1.0 / (1 + warmup), "size": float(warmup), "began": began, "device": node}
        if rung == 1:
            (folder / "artifact").mkdir()
            (folder / "artifact" / "weights").write_text(str(warmup))
            (folder / "artifact" / "samples.json").write_text("[]")
            write_manifest(folder / "artifact")
            event["artifact"] = str(folder / "artifact")
        yield event
        if (Path(place()) / "die").exists():
            (Path(place()) / "die").unlink()
            os.kill(os.getpid(), 9)


def remeasure(payload, context):
    """From the artifact's files."""
    assert payload["artifact"].startswith(place())
    warmup = int((Path(payload["artifact"]) / "weights").read_text())
    yield {"loss": 1.0 / (1 + warmup), "size": float(warmup)}


JOBS = {"corpus": prepare, "teacher": prepare, "base": prepare, "trial": trial, "remeasure": remeasure}
