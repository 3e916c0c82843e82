"""Where adapters on low-bit bases should start:
`python -m benchmarks.low_bit --space quickstart --cache DIR [--bits 2,3,4] [--seeds 3] [--set key=value]`;
`--part budget`: one format for all matrices beside LQ-LoRA's assignment under as many bits a value;
`--part variants`: LoRA, rsLoRA and DoRA; `--part moments`: AdamW's moments in float32 and in 8 bits.

Every start begins from the same base, whose attention and feed-forward weights are quantized uniformly and
frozen, with an adapter of the same rank on every one of them. Measured before any training: the relative
error of the body's last hidden states on corrupted held-out texts (`activation_error`), and after the same
number of steps: the bound on held-out text. Seeds change the adapter's random factors, calibration texts and
training batches; starts are interleaved within a seed. A run that was broken off goes on where it was: what
the JSON holds under the same settings is not measured again. Needs no Ray.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import interval, prepared
from benchmarks.common import RESULTS, save
from search.run.validation import load_checked
from spaces import points
from spaces.config import TrialConfig
from spaces.overrides import parse
from trainable.artifacts.artifact import load
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.states import corrupted, spread
from trainable.models.backbone import Backbone
from trainable.quantization.sites import at_rest
from trainable.registry import PROCESSES
from trainable.stages.prepare import Prepared
from trainable.stages.trial import Trial
from trainable.workers.context import WorkerContext

STARTS: dict[str, dict[str, Any]] = {
    "zero": {}, "eva": {}, "pissa": {}, "loftq": {"rounds": 5}, "lq_lora": {}, "int2.1": {}, "apiq": {}}
FORMATS: dict[str, dict[str, Any]] = {
    "2.5": {"bits": 2, "group": 32}, "3": {"bits": 2, "group": 16}, "3.25": {"bits": 3, "group": 64}}
"""Budgets, and the format that takes just as many bits a value of every matrix."""
BITS = {"starts": "2,3,4", "budget": "2.5,3,3.25", "variants": "3", "moments": "3"}
"""Of each part, unless others are asked for."""
HELD_OUT = 64
"""Texts whose hidden states are compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="quickstart")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--part", choices=tuple(BITS), default="starts")
    parser.add_argument("--starts", default=",".join(STARTS))
    parser.add_argument("--bits", help="2,3,4; others that the JSON holds under the same settings stay")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", help="of the JSON; low_bit_SPACE or low_bit_PART_SPACE unless given")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space, context = load_checked(args.space, parse(args.settings)), WorkerContext()
    cache: dict[str, Any] = {}
    plain = space.config(points.complete(space.dimensions, {}))
    shared = Prepared(**prepared(plain, args.cache, context))
    asked = {"space": args.space, "settings": args.settings, "rank": args.rank, "steps": args.steps,
             "seeds": args.seeds}
    arms = arms_of(args.part, args.starts.split(","), (args.bits or BITS[args.part]).split(","))
    name = args.name or ("low_bit_" if args.part == "starts" else f"low_bit_{args.part}_") + args.space
    cells: dict[str, dict[str, list[dict]]] = before(name, asked)
    with tempfile.TemporaryDirectory() as scratch:
        for label, (quantizer, changes) in arms.items():
            for seed in range(args.seeds):
                for arm, change in changes.items():
                    rows = cells.setdefault(label, {}).setdefault(arm, [])
                    if seed < len(rows):
                        continue
                    config = adapted(plain, change, quantizer, args.rank, seed)
                    rows.append(measured(config, shared, args.steps, Path(scratch), cache))
                    print(label, seed, arm, {key: round(value, 4) for key, value in rows[-1].items()},
                          flush=True)
                    save(name, {**asked, args.part: {each: compared(cells[each])
                                                     for each in sorted(cells, key=float)}, "cells": cells})


def before(name: str, asked: dict[str, Any]) -> dict[str, dict[str, list[dict]]]:
    """What was measured before under the same settings: by bits and arm, a row for each seed."""
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    found: dict[str, dict[str, list[dict]]] = known.get("cells", {})
    return found if asked.items() <= known.items() else {}


Arms = dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]]
"""Label of some bits -> the quantizer, and what each arm changes by label: settings of `lora`, and
`adapt.optim`. The others are compared with the first."""


def arms_of(part: str, starts: list[str], bits: list[str]) -> Arms:
    """The arms of a part. Starts, variants and moments: on a scale a row; budgets: LQ-LoRA on one format for
    all matrices, and with bits and groups of each under the same budget."""
    if part == "budget":
        return {each: ({"name": "uniform", "granularity": "group", **FORMATS[each]},
                       {"one format": {"start": {"name": "lq_lora"}},
                        "assigned": {"start": {"name": "lq_lora", "budget": float(each)}},
                        "assigned, no Fisher": {"start": {"name": "lq_lora", "budget": float(each),
                                                          "fisher": False}}}) for each in bits}
    changes: dict[str, dict[str, Any]] = {
        "starts": {name: {"start": {"name": name, **STARTS[name]}} for name in starts},
        "variants": {f"{variant}, {start}": {"start": start, "variant": variant}
                     for start in ("zero", "loftq") for variant in ("lora", "rslora", "dora")},
        "moments": {states: {"start": "loftq", "optim": {"states": states}}
                    for states in ("float32", "int8")},
    }[part]
    return {each: ({"name": "uniform", "bits": int(each)}, changes) for each in bits}


def compared(by: dict[str, list[dict]]) -> dict[str, Any]:
    """Summaries of what has been measured, beside the first arm."""
    first = next(iter(by))
    return {name: summary(rows, by[first], first) for name, rows in by.items()}


def adapted(plain: TrialConfig, change: dict[str, Any], quantizer: dict[str, Any], rank: int,
            seed: int) -> TrialConfig:
    """A frozen low-bit body under one arm."""
    change = dict(change)
    changed = plain.model_dump(mode="json")
    changed["quantization"] = {"quantizer": quantizer, "sites": ["attention", "ffn"]}
    changed["adapt"] |= {"body": "frozen", "optim": {**changed["adapt"]["optim"], **change.pop("optim", {})}}
    changed["lora"] = {"rank": rank, "alpha": rank, "targets": ["query", "key", "value", "output", "ffn"],
                       **change}
    changed["calibration"]["seed"] = changed["seed"] = seed
    return TrialConfig.model_validate(changed)


def measured(config: TrialConfig, shared: Prepared, steps: int, scratch: Path,
             cache: dict) -> dict[str, float]:
    """One start: errors before training, the bound after it, and CPU seconds of the start."""
    began = time.process_time()
    trial = Trial(config, shared, [steps], scratch, torch.device("cpu"), cache)
    seconds = time.process_time() - began
    base, corpus = load(shared.base), TokenizedCorpus.open(Path(shared.corpus))
    before = {"activation_error": activation_error(trial.model, base.model, trial.config, corpus),
              "bound_before": bound(trial.model, trial.config, corpus), "start_cpu_seconds": seconds,
              **{key: value for key, value in trial.facts.items()
                 if key.startswith(("adapter_error", "adapter_base"))}}
    assert trial.run is not None
    began = time.process_time()
    trial.run.advance(steps)
    before["train_cpu_seconds"] = time.process_time() - began
    with trial.run.averaged():
        return {**before, "bound": bound(trial.model, trial.config, corpus)}


@torch.no_grad()
def activation_error(model: Backbone, base: Backbone, config: TrialConfig, corpus: TokenizedCorpus) -> float:
    """||h - h_base|| / ||h_base|| of the body's last hidden states, over corrupted held-out texts at all
    levels."""
    process = PROCESSES.build(config.diffusion)
    ids = torch.as_tensor(corpus.ids("valid")[:HELD_OUT].astype("int64"))
    states = corrupted(base, process, ids, spread(len(ids), 8, process), torch.Generator().manual_seed(7))
    seen = []
    for each in (base, model):
        handle = each.body.register_forward_hook(lambda _, __, out: seen.append(out))
        each.eval().predict(states.state, states.t, states.previous)
        handle.remove()
    right, found = (out if isinstance(out, torch.Tensor) else out[0] for out in seen)
    return float((found - right).norm() / right.norm())


@torch.no_grad()
def bound(model: Backbone, config: TrialConfig, corpus: TokenizedCorpus) -> float:
    """Nats per word of held-out text, by the same times and noise for all."""
    process, rows = PROCESSES.build(config.diffusion), slice(0, config.evaluation.heldout)
    ids = torch.as_tensor(corpus.ids("valid")[rows].astype("int64"))
    generator = torch.Generator().manual_seed(11)
    with at_rest(model):
        parts = [process.bound(model, batch, config.evaluation.times, generator) for batch in ids.split(64)]
    total = sum(float(value.sum()) for part in parts for value in part.values())
    return total / float((corpus.lengths("valid")[rows] + 1).sum())


def summary(rows: list[dict[str, float]], first: list[dict[str, float]], name: str) -> dict[str, Any]:
    """Mean and 95 % half-width over seeds; ratios and differences to the first arm, `name`, are paired by
    seed."""
    made = {key: interval([row[key] for row in rows]) for key in rows[0]}
    pairs = list(zip(rows, first, strict=False))
    name = name.replace(" ", "_")
    return {key: [None if math.isnan(value) else value for value in pair] for key, pair in {
        **made,
        "activation_error_ratio": interval([a["activation_error"] / b["activation_error"] for a, b in pairs]),
        f"bound_minus_{name}": interval([a["bound"] - b["bound"] for a, b in pairs])}.items()}


if __name__ == "__main__":
    main()
