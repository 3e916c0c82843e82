"""Transfer of control to E2E: `python -m benchmarks.control_transfer --data DIR --cache DIR --start
ARTIFACT --steps 300`.

Trains a base of spaces/transfer.yaml twice for equally many steps, from scratch and from `--start` (a base of
another corpus), and measures controllability and perplexity of both, by the same targets, noise, teacher and
scorers. Earlier calls with other steps are kept. Needs no Ray.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.arms import prepared
from benchmarks.common import RESULTS, save
from search.run.validation import load_checked
from spaces import points
from trainable.artifacts.artifact import load
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.controllability import Controllability
from trainable.metrics.perplexity import Perplexity
from trainable.scoring.teacher import Teacher
from trainable.stages.evaluation import Measurement
from trainable.workers.context import WorkerContext

NAME = "control_transfer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--start", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--targets", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    rows = [row for row in rows if row["steps"] != args.steps]
    for start in (None, args.start):
        rows.append({"arm": "transferred" if start else "from scratch", "steps": args.steps,
                     **measured(args, start)})
        print(json.dumps(rows[-1]), flush=True)
        save(NAME, {"targets": args.targets, "rows": rows})
    columns = [key for key in rows[0] if key.startswith("controllability_") and f"{key}_se" in rows[0]]
    for row in rows:
        print(f"{row['steps']:5d} steps {row['arm']:12s} perplexity {row['perplexity']:7.1f} "
              + " ".join(f"{key.removeprefix('controllability_')} {row[key]:.3f}" for key in columns))


def measured(args, start: str | None) -> dict:
    """One arm's controllability and perplexity."""
    space = load_checked("transfer",
                         {"trial.corpus.source.path": f"{args.data}/e2e", "search.base.start": None,
                          "search.base.optim.steps": None, "trial.base.optim.steps": args.steps,
                          "trial.base.start": start, "trial.evaluation.control_samples": args.targets,
                          "sampler.name": "tpe", "search.adapt.optim.lr.log": [1e-4, 1e-3],
                          "trial.adapt.optim.lr": None, "budget.trials": 1})
    config = space.config(points.complete(space.dimensions, {}))
    shared = prepared(config, args.cache, WorkerContext())
    corpus, base = TokenizedCorpus.open(Path(shared["corpus"])), load(shared["base"])
    teacher = Teacher.load(shared["teacher"], corpus, torch.device("cpu"))
    measurement = Measurement(config=config, model=base.model, process=base.process, corpus=corpus,
                              teacher=teacher, facts={}, device=torch.device("cpu"))
    found = Perplexity(Perplexity.Params()).measure(measurement)
    found |= Controllability(Controllability.Params()).measure(measurement)
    return {**found,
            **{key: base.facts[key] for key in ("train_seconds", "words_shared") if key in base.facts}}


if __name__ == "__main__":
    main()
