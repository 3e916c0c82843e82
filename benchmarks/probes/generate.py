"""CPU seconds of generation at the quickstart's shape: free texts, 1, 8 and 64 at once, and all control tasks
of one trial, with a model of its own as a trial has it. Weights are as good as random: time does not depend
on them.

Runs on the checkout it is started in, of any age since 2026-11-21:
`python benchmarks/probes/generate.py CACHE`.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import torch
import yaml

try:
    from trainable.artifacts.artifact import load
    from trainable.corpora.tokenized import TokenizedCorpus
    from trainable.registry import PROCESSES
    from trainable.scoring.teacher import Teacher
    from trainable.stages.evaluation import Measurement
    from trainable.workers.context import WorkerContext
    from trainable.workers.jobs import JOBS
except ImportError:  # before the rooms
    from trainable.artifact import load
    from trainable.context import WorkerContext
    from trainable.evaluation import Measurement
    from trainable.jobs import JOBS
    from trainable.teacher import Teacher

    from trainable.corpora.tokenize import TokenizedCorpus
    PROCESSES = None
try:
    from trainable.artifacts.malloc import keep_heap  # as a worker does
except ImportError:
    keep_heap = None
from spaces import points
from spaces.schema import Space
from trainable.metrics.controllability import Controllability

STEPS, LEAST_S = 50, 1.0


def prepared(cache: str) -> tuple:
    """The quickstart's settings, corpus, a base and a teacher of two training steps."""
    made = yaml.safe_load((Path.cwd() / "spaces" / "quickstart.yaml").read_text())
    made = {"name": "generate", "trial": made["trial"], "search": {"seed": {"choice": [0, 1]}},
            "objectives": {"perplexity": "minimize", "controllability": "maximize"}, "budget": {"trials": 1}}
    made["trial"]["corpus"]["source"]["sentences"] = 2000
    for part in ("base", "teacher"):
        made["trial"][part]["optim"]["steps"] = 2
    space = Space.from_dict(made)
    config = space.config(points.complete(space.dimensions, {}))
    payload, context = {"config": config.model_dump(mode="json"), "cache": cache}, WorkerContext()
    corpus = list(JOBS["corpus"](payload, context))[-1]["path"]
    shared = {kind: list(JOBS[kind]({**payload, "corpus": corpus}, context))[-1]["path"]
              for kind in ("teacher", "base")}
    config = config.model_copy(update={
        "sampling": config.sampling.model_copy(update={"steps": STEPS, "temperature": 0.5})})
    return config, TokenizedCorpus.open(Path(corpus)), shared


def per_text(draw: Callable[[int], object], batch: int) -> float:
    """CPU seconds of one of `batch` texts, after two calls."""
    for _ in range(2):
        draw(batch)
    began, calls = time.process_time(), 0
    while (spent := time.process_time() - began) < LEAST_S:
        calls, _ = calls + 1, draw(batch)
    return spent / calls / batch


def controlled(config: object, corpus: TokenizedCorpus, shared: dict, cache: dict) -> float:
    """CPU seconds of the control tasks of one trial."""
    base = load(shared["base"])
    teacher = Teacher.load(shared["teacher"], corpus, "cpu")
    process = ({"schedule": base.schedule} if PROCESSES is None
               else {"process": PROCESSES.build(base.config.diffusion)})
    measurement = Measurement(config=config, model=base.model, corpus=corpus, teacher=teacher, facts={},
                              device=torch.device("cpu"), cache=cache, **process)
    metric = Controllability(Controllability.Params())
    began = time.process_time()
    found = metric.measure(measurement)
    assert 0 <= found["controllability"] <= 1
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    if keep_heap is not None:
        keep_heap()
    config, corpus, shared = prepared(sys.argv[1])
    base, figures = load(shared["base"]), {}

    def draw(batch: int) -> object:
        return base.generate(batch, torch.Generator().manual_seed(0), steps=STEPS)

    began = time.process_time()
    draw(1)
    figures["first_text_s"] = time.process_time() - began
    for batch in (1, 8, 64):
        figures[f"batch_{batch}_s"] = per_text(draw, batch)
    cache: dict = {}
    controlled(config, corpus, shared, cache)  # counts that a worker keeps from trial to trial
    figures["control_s"] = controlled(config, corpus, shared, cache)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
