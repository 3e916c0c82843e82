"""Bases by Muon beside bases by AdamW:
`python -m benchmarks.optimizers --cache DIR [--recipes adamw:6000:0.01 muon:2700:0.014] [--seeds 3]`.

For each seed the base of a space is trained by each recipe (`base.optim.name`, `steps` and `lr`), one after
the other in this process, one thread. Told are the CPU seconds of the job (training, export and the base's
own latency; the first one's imports too), the bound on held-out text, and perplexity of samples under the
teacher; of the other recipes also ratios to the first, by seed. A base that the cache has tells no seconds,
so give a new folder. No Ray.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import interval, prepared
from benchmarks.common import save
from benchmarks.padding import of_base, of_bases
from search.run.validation import load_checked
from spaces import points
from spaces.config import TrialConfig
from spaces.overrides import parse
from trainable.artifacts.malloc import keep_heap
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS


def main() -> None:
    parser = of_bases(__doc__, samples=512)
    parser.add_argument("--recipes", nargs="+", default=["adamw:6000:0.01", "muon:2700:0.014"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_heap()
    space, context = load_checked(args.space, parse(args.settings)), WorkerContext()
    config = space.config(points.complete(space.dimensions, {}))
    shared = prepared(config, args.cache, context, ["teacher"])
    found: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in args.recipes}
    for seed in range(args.seeds):
        for recipe in args.recipes:
            one = with_base(config, seed, *recipe.split(":"))
            began = time.process_time()
            list(JOBS["base"]({"config": one.model_dump(mode="json"), "cache": args.cache,
                               "corpus": shared["corpus"]}, context))
            figures = {"cpu_seconds": time.process_time() - began,
                       **of_base(one, args.cache, shared, args.samples, context)}
            found[recipe].append(figures)
            print(seed, recipe, {name: round(value, 3) for name, value in figures.items()}, flush=True)
    save(f"optimizers_{Path(args.space).stem}", {
        "settings": args.settings, "seeds": args.seeds, "of": found, "summary": summary(found)})


def with_base(config: TrialConfig, seed: int, name: str, steps: str, lr: str) -> TrialConfig:
    """The trial over another base."""
    optim = config.base.optim.model_copy(update={"name": name, "steps": int(steps), "lr": float(lr)})
    return config.model_copy(update={"base": config.base.model_copy(update={"seed": seed, "optim": optim})})


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Means and 95 % half-widths over seeds, and of the paired ratios to the first recipe."""
    (first, rows), *others = found.items()
    told = {recipe: {name: interval([one[name] for one in of]) for name in rows[0]}
            for recipe, of in found.items()}
    return {**told, **{f"{recipe} over {first}": {
        name: interval([one[name] / other[name] for one, other in zip(of, rows, strict=True)])
        for name in rows[0]} for recipe, of in others}}


if __name__ == "__main__":
    main()
