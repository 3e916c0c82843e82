"""CPU seconds of whole trials of the quickstart by stage, in this process, one thread, no Ray: from the base
to the last rung, of three points of its space. The first call on a cache makes what trials share.

Runs on the checkout it is started in, of any age since 2026-11-21:
`python benchmarks/probes/trial.py CACHE [NUMBER ...]`, the numbers of some of the points.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import torch

try:
    from trainable.workers.context import WorkerContext
    from trainable.workers.jobs import JOBS
except ImportError:  # before the rooms
    from trainable.context import WorkerContext
    from trainable.jobs import JOBS
try:
    from trainable.artifacts.malloc import keep_heap  # as a worker does
except ImportError:
    keep_heap = None
from spaces import points
from spaces.schema import load

EVERYWHERE = ["embedding", "projection", "attention", "ffn"]
POINTS = (
    {"quantization.quantizer": "none", "lora.rank": 0, "adapt.optim.lr": 1e-4,
     "sampling.steps": 50, "sampling.temperature": 0.5},
    {"quantization.quantizer": "ternary_twn", "quantization.sites": ["projection"], "lora.rank": 0,
     "adapt.optim.lr": 2e-3, "sampling.steps": 20, "sampling.temperature": 0.5},
    {"quantization.quantizer": "fixed:Q2i2f", "quantization.sites": EVERYWHERE, "lora.rank": 8,
     "lora.alpha": 16.0, "adapt.optim.lr": 1e-3, "sampling.steps": 20, "sampling.temperature": 0.8},
)
STAGES = {"control_s": "controllability", "texts_s": "perplexity", "latency_s": "latency_ms",
          "bound_s": "nll_bound"}


def one(config: dict, shared: dict, rungs: list[int], context: object) -> tuple[float, list[dict]]:
    """CPU seconds of a trial, and what its rungs told."""
    with tempfile.TemporaryDirectory() as scratch:
        began = time.process_time()
        told = list(JOBS["trial"]({"config": config, "prepared": shared, "rungs": rungs,
                                   "folder": str(Path(scratch) / "trial")}, context))
        return time.process_time() - began, [event for event in told if "rung" in event]


def main() -> None:
    cache, *numbers = sys.argv[1:]
    torch.set_num_threads(1)
    time.perf_counter = time.process_time  # by which stages are clocked: what others do is not counted
    if keep_heap is not None:
        keep_heap()
    space, context = load("quickstart"), WorkerContext()

    def config_of(point: dict) -> object:
        return space.config(points.complete(space.dimensions, point))

    config = config_of(POINTS[0])
    payload = {"config": config.model_dump(mode="json"), "cache": cache}
    shared = {"corpus": list(JOBS["corpus"](payload, context))[-1]["path"]}
    for kind in ("teacher", "base"):
        last = list(JOBS[kind]({**payload, "corpus": shared["corpus"]}, context))[-1]
        shared |= {kind: last["path"], **({"reference": last["reference"]} if "reference" in last else {})}
    few = config.evaluation.model_copy(update={"samples": 4, "control_samples": 1, "latency_repeats": 2})
    one(config.model_copy(update={"evaluation": few}).model_dump(mode="json"), shared, [1, 2], context)
    figures: Counter[str] = Counter()
    for point in [POINTS[int(number)] for number in numbers] or POINTS:
        seconds, rungs = one(config_of(point).model_dump(mode="json"), shared, space.rungs, context)
        figures["whole_s"] += seconds
        figures["training_s"] += rungs[-1]["train_seconds"]
        for stage, metric in STAGES.items():
            figures[stage] += sum(rung.get(f"seconds_{metric}", 0.0) for rung in rungs)
        print(json.dumps(rungs), file=sys.stderr)
    figures["rest_s"] = figures["whole_s"] - sum(figures[name] for name in ("training_s", *STAGES))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
