"""The top rung of one trial at the published shape (87 million parameters) with little training and sampling
in it: one step, four samples of one sampler step. What is left is building, packing, writing and loading.

Runs on the checkout it is started in, of any age since 2026-11-21: `python benchmarks/probes/rung.py CACHE`.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import torch

try:
    from trainable.workers.context import WorkerContext
    from trainable.workers.jobs import JOBS
except ImportError:  # before the rooms
    from trainable.context import WorkerContext
    from trainable.jobs import JOBS
from spaces import points
from spaces.schema import Space

SPACE = {
    "name": "rung",
    "trial": {
        "corpus": {"source": {"name": "restaurant", "sentences": 400, "max_words": 28}, "max_length": 32,
                   "min_count": 0},
        "model": {"dropout": 0.0},  # the published shape is the default
        "diffusion": {"timesteps": 20},
        "teacher": {"hidden": 16, "layers": 1, "heads": 2, "optim": {"steps": 2, "batch_size": 8}},
        "base": {"optim": {"steps": 1, "batch_size": 1}},
        "adapt": {"optim": {"batch_size": 1}},
        "quantization": {"quantizer": "fixed:Q0i8f", "sites": ["embedding"]},
        "lora": {"rank": 8},
        "sampling": {"steps": 1},
        "evaluation": {"samples": 4, "heldout": 4, "times": 1, "control_tasks": [], "latency_repeats": 2,
                       "latency_batch": 1},
    },
    "search": {"seed": {"choice": [0, 1]}},
    "objectives": {"nll_bound": "minimize", "size_bytes": "minimize"},
    "budget": {"trials": 2},
    "rungs": [1],
    "sampler": {"name": "grid"},
    "scheduler": {"name": "none"},
}


def main() -> None:
    cache = sys.argv[1]
    torch.set_num_threads(1)
    space, context = Space.from_dict(SPACE), WorkerContext()
    config = space.config(points.complete(space.dimensions, {})).model_dump(mode="json")
    payload = {"config": config, "cache": cache}
    corpus = list(JOBS["corpus"](payload, context))[-1]["path"]
    shared = {"corpus": corpus, **{kind: list(JOBS[kind]({**payload, "corpus": corpus}, context))[-1]["path"]
                                   for kind in ("teacher", "base")}}
    seconds = []
    for _ in range(2):  # a warm worker's second trial is what a run mostly sees
        with tempfile.TemporaryDirectory() as scratch:
            cpu, wall = time.process_time(), time.monotonic()
            list(JOBS["trial"]({"config": config, "prepared": shared, "rungs": [1],
                                "folder": str(Path(scratch) / "trial")}, context))
            seconds.append((time.process_time() - cpu, time.monotonic() - wall))
    print(json.dumps({"first_cpu_s": seconds[0][0], "first_wall_s": seconds[0][1],
                      "warm_cpu_s": seconds[1][0], "warm_wall_s": seconds[1][1],
                      "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


if __name__ == "__main__":
    main()
