"""Quantizer arms against each other, several seeds each:
`python -m benchmarks.arms e2e --cache DIR [--set key=value]`.

Every arm starts from the same base and trains the same number of steps at equal depth; arms are interleaved
within a seed. Prints mean and 95 % interval over seeds of nll_bound and perplexity, and the paired difference
to the unquantized arm. `--cache` is the folder `cache` of an earlier run of the space (its corpus, teacher
and base are taken from there). Needs no Ray.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import save
from search.run.validation import load_checked
from spaces import points
from spaces.overrides import parse
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

ARMS = ("none", "fixed:Q0i8f", "fixed:Q0i4f", "fixed:Q2i2f", "fixed:Q4i4f", "fixed:Q8i8f", "fixed:Q4i0f",
        "fixed:Q8i0f", "pow2:Q0i8f", "pow2:Q4i0f", "ternary_twn", "binary")
METRICS = ("nll_bound", "perplexity", "diversity", "train_loss", "embedding_collapsed_rows")
T_975 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated; `none` must be among them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--site", default="embedding")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--name", help="of the JSON; arms_SPACE_SITE unless given")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space, context = load_checked(args.space, parse(args.settings)), WorkerContext()
    found: dict[str, list[dict]] = {arm: [] for arm in args.arms.split(",")}
    with tempfile.TemporaryDirectory() as scratch:
        shared = None
        for seed in range(args.seeds):
            for arm in found:
                config = arm_config(space, arm, args.site, seed)
                shared = shared or prepared(config, args.cache, context)
                found[arm].append(measured(config, shared, args.steps,
                                           Path(scratch) / f"{seed}-{arm}", context))
                print(seed, arm, {name: round(found[arm][-1][name], 4) for name in METRICS[:2]}, flush=True)
    figures = {"space": args.space, "site": args.site, "steps": args.steps, "seeds": args.seeds,
               "arms": {arm: table_row(rows, found["none"]) for arm, rows in found.items()}}
    show(figures["arms"])
    save(args.name or f"arms_{Path(args.space).stem}_{args.site}", figures)


def arm_config(space, arm: str, site: str, seed: int):
    """The space's fixed settings with one quantizer on one site, no adapter."""
    config = space.config(points.complete(space.dimensions, {}))
    changed = config.model_dump(mode="json")
    changed["quantization"] = {"quantizer": arm, "sites": [site]}
    changed["lora"] = {"rank": 0}
    changed["adapt"]["optim"]["lr"] = 1e-3
    changed["sampling"] |= {"steps": 50, "temperature": 0.7}
    changed["evaluation"] |= {"seed": seed, "control_tasks": [],
                              "metrics": ["nll_bound", "perplexity", "diversity"]}
    changed["seed"] = seed
    return type(config).model_validate(changed)


def prepared(config, cache: str, context: WorkerContext,
             kinds: Sequence[str] = ("teacher", "base")) -> dict[str, str]:
    """Folders of the corpus and of those kinds; made where the cache lacks them."""
    payload = {"config": config.model_dump(mode="json"), "cache": cache}
    corpus = list(JOBS["corpus"](payload, context))[-1]["path"]
    return {"corpus": corpus, **{kind: list(JOBS[kind]({**payload, "corpus": corpus}, context))[-1]["path"]
                                 for kind in kinds}}


def measured(config, shared: dict, steps: int, folder: Path, context: WorkerContext) -> dict:
    """The top rung of one arm."""
    payload = {"config": config.model_dump(mode="json"), "prepared": shared, "rungs": [steps],
               "folder": str(folder)}
    return list(JOBS["trial"](payload, context))[-1]


def interval(values: list[float]) -> list[float]:
    """Mean and half-width of its 95 % t-interval."""
    half = (T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1
            else math.nan)
    return [statistics.fmean(values), half]


def table_row(rows: list[dict], plain: list[dict]) -> dict:
    """Intervals of the metrics, and of the seed-paired difference to the unquantized arm."""
    row = {name: interval([row[name] for row in rows]) for name in METRICS if name in rows[0]}
    for name in ("nll_bound", "perplexity"):
        row[f"{name}_minus_none"] = interval([a[name] - b[name] for a, b in zip(rows, plain, strict=True)])
    return row


def show(arms: dict) -> None:
    """Print the table."""
    print(f"{'arm':14s} {'nll_bound':>18s} {'minus none':>18s} {'perplexity':>18s} {'minus none':>18s}")
    for arm, row in arms.items():
        cells = (row["nll_bound"], row["nll_bound_minus_none"], row["perplexity"],
                 row["perplexity_minus_none"])
        print(f"{arm:14s} " + " ".join(f"{mean:9.3f} ± {half:6.3f}" for mean, half in cells))


if __name__ == "__main__":
    main()
