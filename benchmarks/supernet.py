"""What one run for every rank and bit-width is worth:
`python -m benchmarks.supernet --space quickstart --cache DIR [--seeds 3] [--steps 200] [--set key=value]
[--adapt key=value]`.

For each seed one supernet is trained; each of its members is then compared with a run of its own of `--steps`
steps from the same base, and with what the singular value decomposition leaves of one trained adapter of the
largest rank: of that run (`svd`), and of one of as many steps as the supernet gives this bit-width
(`svd_equal`). All are measured by the bound on held-out text, under the same noise. A cell is a seed and
a bit-width: those that the JSON has already, under the same settings, are not run again. With `--beside NAME`
runs of their own are taken from the cells of that JSON. Needs no Ray.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - before anything is timed
import torch
from scipy.stats import spearmanr

from benchmarks.arms import interval, prepared
from benchmarks.common import RESULTS, save
from benchmarks.low_bit import bound
from search.run.validation import load_checked
from spaces import points
from spaces.config import TrialConfig
from spaces.overrides import parse
from trainable.adapters.base import low_rank
from trainable.adapters.supernet import Draws, Member
from trainable.artifacts.artifact import load
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.models.backbone import Backbone
from trainable.models.lora import ADAPTER
from trainable.stages.adapted import adapted_model
from trainable.stages.adapting import adapted_layers
from trainable.stages.members import as_member
from trainable.stages.prepare import Prepared
from trainable.stages.supernet import fill, prepare_supernet, steps_of, supernet_key
from trainable.stages.trial import Trial
from trainable.workers.context import WorkerContext

CPU = torch.device("cpu")
WITHIN = 0.03
"""Of the bound of a member's own run."""
SUPERNETS = ("adapt", "supernet_steps")
"""What is asked for of supernets alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="quickstart")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--ranks", default="1,2,4,8")
    parser.add_argument("--bits", default="2,3,4")
    parser.add_argument("--group", type=int, default=16, help="values to a scale; 0 = a scale per row")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--supernet-steps", type=int, help="twice --steps unless given")
    parser.add_argument("--adapt", action="append", default=[], help="KEY=VALUE of `adapt`, of the supernet")
    parser.add_argument("--start", default="zero")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", help="of the JSON; supernet_SPACE unless given")
    parser.add_argument("--beside", help="name of a JSON that has the runs of their own")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_checked(args.space, parse(args.settings))
    cache: dict[str, Any] = {}
    plain = space.config(points.complete(space.dimensions, {}))
    shared = Prepared(**prepared(plain, args.cache, WorkerContext()))
    asked = {name: value for name, value in vars(args).items()
             if name not in ("cache", "seeds", "name", "beside")}
    name = args.name or f"supernet_{Path(args.space).stem}"
    cells: dict[str, dict[str, Any]] = known(name, asked)
    others = known(args.beside, asked, SUPERNETS) if args.beside else {}
    if args.beside and not others:
        parser.error(f"--beside {args.beside}: no cells of such runs")
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(args.seeds):
            config = supernet_config(plain, args, seed)
            for bits in config.adapt.bits:
                if f"{seed}/{bits}" in cells:
                    continue
                cells[f"{seed}/{bits}"] = cell(config, bits, shared, Path(args.cache), Path(scratch), cache,
                                               others.get(f"{seed}/{bits}"))
                print(seed, bits, cells[f"{seed}/{bits}"], flush=True)
                save(name, {"asked": asked, "summary": summary(cells), "cells": cells})


def known(name: str, asked: dict[str, Any], but: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """The cells of an earlier run under the same settings, but for some."""
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text()) if path.is_file() else {"asked": {}}
    same = {**found["asked"], **{name: asked[name] for name in but}} == asked
    return found["cells"] if same else {}


def supernet_config(plain: TrialConfig, args: argparse.Namespace, seed: int) -> TrialConfig:
    """Some member of the supernet of this seed."""
    ranks, bits = ([int(text) for text in given.split(",")] for given in (args.ranks, args.bits))
    changed = plain.model_dump(mode="json")
    group = {"granularity": "group", "group": args.group} if args.group else {}
    changed["quantization"] = {"quantizer": {"name": "uniform", "bits": bits[0],
                                             "symmetric": False, **group}, "sites": ["attention", "ffn"]}
    changed["lora"] = {"rank": ranks[0], "alpha": 8.0, "start": args.start,
                       "targets": ["query", "key", "value", "output", "ffn"]}
    changed["adapt"] |= {"mode": "supernet", "ranks": ranks, "bits": bits,
                         "supernet_steps": args.supernet_steps or 2 * args.steps, **parse(args.adapt)}
    changed["adapt"]["optim"] |= {"lr": args.lr, "steps": args.steps}
    changed["calibration"]["seed"] = changed["seed"] = seed
    return TrialConfig.model_validate(changed)


def cell(config: TrialConfig, bits: int, shared: Prepared, cache: Path, scratch: Path,
         kept: dict, other: dict[str, Any] | None = None) -> dict[str, Any]:
    """All ranks of one bit-width: bounds of member, own run and truncated adapter; CPU seconds of the runs,
    of the supernet's where it was trained here. `other`: a cell with the runs of their own."""
    corpus, base = TokenizedCorpus.open(Path(shared.corpus)), load(shared.base, run_codes=False)
    new, began = not (cache / f"supernet-{supernet_key(config)}").exists(), time.process_time()
    made = list(prepare_supernet(config, shared, cache, CPU))[-1]
    paths = Prepared(shared.corpus, shared.teacher, shared.base, made["path"])
    steps, widest = config.adapt.optim.steps, max(config.adapt.ranks)
    found: dict[str, Any] = {"ranks": {}, "equal_steps": share(config, bits)}
    if new and other is None:  # else seconds of two times would be compared
        found["supernet_cpu_seconds"] = time.process_time() - began
        found["supernet_step_seconds"] = made["supernet_seconds"] / made["supernet_steps"]
    cuts: dict[str, Callable[[int], Backbone]] = {}
    if other is None or other["equal_steps"] != found["equal_steps"]:
        alone = own(as_member(config, Member(widest, bits)))
        equal, *_ = trained(alone, found["equal_steps"], shared, scratch, kept)
        cuts["svd_equal"] = truncated(equal, alone, base)
    for rank in sorted(config.adapt.ranks, reverse=True):
        member = as_member(config, Member(rank, bits))
        alone, row = own(member), {} if other is None else other["ranks"][str(rank)]
        if other is None:
            model, spent, step_seconds = trained(alone, steps, shared, scratch, kept)
            row = {"own": bound(model, alone, corpus), "cpu_seconds": spent, "step_seconds": step_seconds}
            if rank == widest:
                cuts["svd"] = truncated(model, alone, base)
        at_member = Trial(member, paths, [steps], scratch, CPU, kept).model
        found["ranks"][str(rank)] = {**row, "member": bound(at_member, member, corpus), **{
            name: bound(cut(rank), alone, corpus) for name, cut in cuts.items()}}
    return found


def share(config: TrialConfig, bits: int) -> int:
    """Steps of the supernet's run that train this bit-width."""
    draws = Draws(config.adapt.ranks, config.adapt.bits, config.seed, config.adapt.lean)
    return sum(draws.at(step).bits == bits for step in range(steps_of(config)))


def trained(config: TrialConfig, steps: int, shared: Prepared, scratch: Path,
            kept: dict) -> tuple[Backbone, float, float]:
    """A run of its own, its CPU seconds, and the seconds of one of its steps."""
    began = time.process_time()
    trial = Trial(config, shared, [steps], scratch / "own", CPU, kept)
    assert trial.run is not None
    trial.run.advance(steps)
    spent = time.process_time() - began
    assert not trial.run.average, "else the averaged weights would be meant"
    return trial.model, spent, trial.run.seconds / steps


def own(member: TrialConfig) -> TrialConfig:
    """The trial that trains by itself what a member is."""
    return member.model_copy(update={"adapt": member.adapt.apart})


@torch.no_grad()
def truncated(model: Backbone, config: TrialConfig, base: Any) -> Callable[[int], Backbone]:
    """The same trained model with its adapter cut to a rank by the singular value decomposition of its
    product."""
    state = {f"all/{name}": value.detach().clone() for name, value in model.state_dict().items()}
    for layer in adapted_layers(model):
        up, down = low_rank(layer.module.get_delta_weight(ADAPTER), config.lora.rank)
        state[f"all/{layer.name}.lora_A.{ADAPTER}.weight"] = down
        state[f"all/{layer.name}.lora_B.{ADAPTER}.weight"] = up

    def at(rank: int) -> Backbone:
        changed = config.model_dump(mode="json")
        changed["lora"]["rank"] = rank
        cut, _ = adapted_model(TrialConfig.model_validate(changed), base)
        fill(cut, state, Member(rank, 0))
        for layer in adapted_layers(cut):
            layer.module.scaling[ADAPTER] = 1.0
        return cut
    return at


def summary(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Per member the mean over seeds of its bound over its own run's, and of the truncated one's; by seed the
    rank correlation over all members of member and own run; CPU seconds of the one run over an own run's."""
    by: dict[str, list[dict[str, float]]] = {}
    seeds: dict[str, list[dict[str, float]]] = {}
    for name, found in cells.items():
        seed, bits = name.split("/")
        for rank, row in found["ranks"].items():
            by.setdefault(f"{bits} bits, rank {rank}", []).append(row)
            seeds.setdefault(seed, []).append(row)
    over = {key: {name: statistics.fmean(row[key] / row["own"] - 1 for row in rows)
                  for name, rows in by.items()} for key in ("member", "svd", "svd_equal")}
    off, widest = over["member"], max(int(rank) for found in cells.values() for rank in found["ranks"])
    narrower = [name for name in by if not name.endswith(f" {widest}")]
    correlation, svd_correlation = (
        {seed: float(spearmanr([row[key] for row in rows], [row["own"] for row in rows])[0])
         for seed, rows in seeds.items()} for key in ("member", "svd"))
    seconds = statistics.fmean(row["cpu_seconds"] for rows in by.values() for row in rows)
    step = statistics.fmean(row["step_seconds"] for rows in by.values() for row in rows)
    runs, steps = ([found[name] for found in cells.values() if name in found]
                   for name in ("supernet_cpu_seconds", "supernet_step_seconds"))
    return {
        "bounds": {name: {key: interval([row[key] for row in rows]) if len(rows) > 1 else rows[0][key]
                          for key in ("own", "member", "svd", "svd_equal")} for name, rows in by.items()},
        **{f"{key}_over_own": values for key, values in over.items()},
        "worst_member": max(off.values()), f"members_within_{WITHIN:.0%}": sum(
            abs(value) <= WITHIN for value in off.values()), "members": len(off),
        **{f"better_than_{key}": sum(off[name] < over[key][name] for name in narrower)
           for key in ("svd", "svd_equal")}, "narrower_members": len(narrower),
        "spearman": correlation, "spearman_svd": svd_correlation,
        "cost_in_own_runs": statistics.fmean(runs) / seconds if runs else None, "own_runs": len(off),
        "step_in_own_steps": statistics.fmean(steps) / step if steps else None}


if __name__ == "__main__":
    main()
