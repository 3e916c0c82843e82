"""The table of methods against control tasks: `python -m benchmarks.control_table e2e --cache DIR [--tasks
A,B]`.

What `qdlm table` prints for a run, here for a prepared base: human text, diffusion with and without guidance,
FUDGE, a fine-tuned conditional model sampled and by beam search, all by the same targets, teacher and
scorer. With `--set trial.model.conditions=[...]` the base is told these targets while it is trained,
and classifier-free guidance is one more row (its results are kept apart). Cells that an earlier call measured
with the same settings are kept, so that a long table can be made in parts. Needs no Ray.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.arms import prepared
from benchmarks.common import RESULTS, save
from search.cli.format import emit
from search.cli.table_tasks import laid_out
from search.run.validation import load_checked
from spaces import points
from spaces.overrides import parse
from trainable.baselines.comparison import METHODS, compare, open_comparison
from trainable.registry import BACKBONES
from trainable.workers.context import WorkerContext

MODEL = "base"
GRADIENT = ("optimizer", "strength", "inner_steps", "fluency", "start", "stop", "candidates")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--tasks", default="length,semantic,pos,spans")
    parser.add_argument("--methods", default=";".join(METHODS), help="rows to measure, with ; between them")
    parser.add_argument("--targets", type=int, default=50)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--baseline-steps", type=int, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_checked(args.space, parse(args.settings))
    config = space.config(points.complete(space.dimensions, {}))
    shared = prepared(config, args.cache, WorkerContext())
    ground = open_comparison(shared["base"], shared["corpus"], shared["teacher"], args.targets)
    sampling = config.sampling.model_copy(update={"steps": args.steps, "temperature": args.temperature})
    own = config.model_copy(update={"sampling": sampling})
    ground = replace(ground, model=replace(ground.model, config=own), baseline_steps=args.baseline_steps)
    conditions = [ref.name for ref in BACKBONES.params(config.model).conditions]
    settings = {"targets": args.targets, "steps": args.steps, "temperature": args.temperature,
                "baseline_steps": args.baseline_steps,
                "guidance": config.evaluation.guidance.model_dump(include={*GRADIENT}),
                "conditions": conditions or None,
                "base": Path(shared["base"]).name, "teacher": Path(shared["teacher"]).name}
    name = f"control_table_{Path(args.space).stem}{'_told' if conditions else ''}"
    cells = earlier(RESULTS / f"{name}.json", settings)
    for task in args.tasks.split(","):
        held = [cell["method"] for cell in cells if cell["task"] == task]
        missing = [method for method in args.methods.split(";") if method not in held]
        for cell in compare(ground, [task], missing):
            cells.append({**cell, "model": MODEL, "asked": args.targets})
            print(task, cell["method"], [round(value, 3) for value in cell["control"]],
                  [round(value, 2) for value in cell["lm_score"]], cell["example"], flush=True)
            save(name, {**settings, "cells": cells})
    tasks = list(dict.fromkeys(cell["task"] for cell in cells))
    print(emit(laid_out(cells, tasks, list(METHODS), MODEL, args.targets)[0], "md"))


def earlier(path: Path, settings: dict) -> list[dict]:
    """Cells of an earlier call with the same settings, base and teacher."""
    if not path.is_file():
        return []
    held = json.loads(path.read_text())
    return held["cells"] if all(held.get(key) == value for key, value in settings.items()) else []


if __name__ == "__main__":
    main()
