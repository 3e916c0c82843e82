"""Whether a latency holds while others keep a machine busy: `python -m benchmarks.latency_busy --cache DIR`.

One exported model is timed again and again as a trial times it, beside its base and by the run's yardstick,
in turns with no neighbor and with `--busy` processes that multiply matrices. Told are the medians over turns
of `latency_ms` and `latency_ms_ratio`, and of the clock alone, as they were before; and how far those with
neighbors lie from those without. One thread. Needs no Ray. `--cache`: of a quickstart, or a new folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.arms import prepared
from benchmarks.common import save
from search.run.validation import load_checked
from spaces.config import TrialConfig
from spaces.overrides import parse
from trainable.artifacts.artifact import load
from trainable.metrics.latency import Latency
from trainable.registry import METRICS
from trainable.stages.evaluation import Measurement
from trainable.stages.prepare import Prepared
from trainable.stages.reference import reference
from trainable.stages.trial import Trial
from trainable.storage.window import Window
from trainable.workers.context import WorkerContext

POINT = {"quantization.quantizer": "fixed:Q0i4f", "lora.rank": 4, "adapt.optim.lr": 1e-3, "lora.alpha": 8.0,
         "sampling.steps": 20, "sampling.temperature": 0.5,
         "quantization.sites": ["embedding", "projection"]}


def keep_busy() -> None:
    """Multiply matrices until killed."""
    torch.set_num_threads(1)
    matrix = torch.randn(512, 512)
    while True:
        matrix = torch.tanh(matrix @ matrix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, type=Path)
    parser.add_argument("--busy", type=int, default=4)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_checked("quickstart", parse(args.settings))
    config = space.config(POINT)
    made = Prepared(**prepared(config, str(args.cache), WorkerContext()))
    base = Path(made.base)
    yardstick = reference(config, args.cache, base, torch.device("cpu"), Window(None))
    with tempfile.TemporaryDirectory() as scratch:
        artifact = exported(config, made, Path(scratch))
        found: dict[str, list[dict[str, float]]] = {"quiet": [], "busy": []}
        for turn in range(args.turns):
            for kind in sorted(found, reverse=turn % 2 == 0):
                neighbors = [multiprocessing.Process(target=keep_busy, daemon=True)
                             for _ in range(args.busy if kind == "busy" else 0)]
                for process in neighbors:
                    process.start()
                time.sleep(3.0 if neighbors else 0.5)
                found[kind].append(timed(config, made, artifact, yardstick.text()))
                for process in neighbors:
                    process.kill()
                    process.join()
                print(turn, kind, found[kind][-1], flush=True)
    save("latency_busy", {"busy": args.busy, "turns": args.turns, "steps": 20, "batch": yardstick.batch,
                          "figures": {name: row(found, name) for name in found["quiet"][0]}, "taken": found})


def exported(config: TrialConfig, made: Prepared, scratch: Path) -> Path:
    """A model at the top rung after one step, with nothing measured but its size."""
    small = config.model_copy(update={"evaluation": config.evaluation.model_copy(
        update={"metrics": ("size_bytes",), "control_tasks": ()})})
    trial = Trial(small, made, [1], scratch / "trial", torch.device("cpu"), {})
    return Path(trial.rung(0)["artifact"])


def timed(config: TrialConfig, made: Prepared, artifact: Path, yardstick: str) -> dict[str, float]:
    """As a trial is."""
    loaded = load(artifact)
    measurement = Measurement(config=config, model=loaded.model, process=loaded.process, corpus=None,
                              teacher=None, facts={}, device=torch.device("cpu"), artifact=artifact,
                              base_artifact=Path(made.base), reference=yardstick, window=Window(None))
    metric = METRICS.build_default("latency_ms")
    assert isinstance(metric, Latency)
    values = metric.measure(measurement)
    return {name: values[name] for name in ("latency_ms", "latency_ms_ratio", "latency_ms_wall")}


def row(found: dict[str, list[dict[str, float]]], name: str) -> dict[str, float]:
    """Medians, and the share by which those with neighbors are off: of the medians, and of any turn from the
    median without."""
    quiet, busy = ([one[name] for one in found[kind]] for kind in ("quiet", "busy"))
    middle = statistics.median(quiet)
    return {"quiet": middle, "busy": statistics.median(busy), "off": statistics.median(busy) / middle - 1,
            "worst_quiet": max(abs(value / middle - 1) for value in quiet),
            "worst_busy": max(abs(value / middle - 1) for value in busy)}


if __name__ == "__main__":
    main()
