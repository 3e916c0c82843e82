"""What training an adapter on a frozen 4-bit body takes: `python -m benchmarks.low_bit_memory --cache DIR`.

A trial as the search runs it (NF4 with double quantization on attention and ffn, an adapter on every matrix)
in a process of its own for each arm: the frozen weights held as floats, as codes, each with and without
gradient checkpointing, and that once more with AdamW's moments in 8 bits. Counted: bytes of every
tensor that stands for frozen weights; what autograd keeps for the backward pass; trained values, their
gradients and moments; and the resident set of the process: before it loads a model, its peak until the trial
is ready, after the first step, and its peak over those that follow. Two depths of one model give what a layer
adds to that peak. Weights are those of a base after one step: their values have no part in it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.arms import prepared
from benchmarks.common import RESULTS, save
from spaces.config import TrialConfig
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.quantization.frozen import frozen_linears
from trainable.quantization.sites import fake_of, frozen_weights, master_of
from trainable.stages.prepare import Prepared
from trainable.stages.trial import Trial
from trainable.workers.context import WorkerContext

ARMS: dict[str, dict[str, Any]] = {
    "floats": {}, "floats, checkpointing": {"checkpointing": True},
    "codes": {"hold": "codes"}, "codes, checkpointing": {"hold": "codes", "checkpointing": True},
    "codes, checkpointing, int8 moments": {"hold": "codes", "checkpointing": True, "states": "int8"}}
STEPS, NAME = 3, "low_bit_memory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", required=True, help="folder that keeps the corpus and the bases")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--depths", default="2,4", help="numbers of layers; other runs' are kept")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--arm", help="run one, of the first depth, and print it as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    depths = [int(depth) for depth in args.depths.split(",")]
    if args.arm:
        print(json.dumps(measured(config(args, depths[0], ARMS[args.arm]), args.cache)))
        return
    facts = {"hidden": args.hidden, "batch": args.batch, "tokens": 18, "rank": 4, "steps": STEPS}
    found = before(facts)
    for depth in depths:
        prepared(config(args, depth, {}), args.cache, WorkerContext(), ("base",))
        for arm in ARMS:
            rows = found.setdefault(arm, {})
            if str(depth) in rows:
                continue
            rows[str(depth)] = apart(args, depth, arm)
            print(depth, arm, rows[str(depth)], flush=True)
            first, last = (rows[pick(filter(str.isdigit, rows), key=int)] for pick in (min, max))
            if first is not last:
                rows["a_value_of_more_layers"] = slopes(first, last)
            save(NAME, {**facts, "arms": found})


def before(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was measured before under the same facts, and is not measured again."""
    path = RESULTS / f"{NAME}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    arms: dict[str, dict[str, Any]] = known.get("arms", {})
    return arms if facts.items() <= known.items() else {}


def config(args: argparse.Namespace, layers: int, arm: dict[str, Any]) -> TrialConfig:
    """A trial on a body of that depth; an arm's `states` are of its optimizer."""
    adapt = {name: value for name, value in arm.items() if name != "states"}
    optim = {"batch_size": args.batch, "states": arm.get("states", "float32")}
    return TrialConfig.model_validate({
        "corpus": {"source": {"name": "restaurant", "sentences": 500, "max_words": 16}, "max_length": 18,
                   "min_count": 1},
        "model": {"embedding_dim": 16, "hidden": args.hidden, "layers": layers, "heads": args.hidden // 64,
                  "ffn": 4 * args.hidden, "time_dim": 32, "positions": 64, "dropout": 0.0},
        "base": {"optim": {"steps": 1, "batch_size": 2, "ema": 0.0}},
        "quantization": {"quantizer": {"name": "nf4", "double": True}, "sites": ["attention", "ffn"]},
        "lora": {"rank": 4, "targets": ["query", "key", "value", "output", "ffn"]},
        "adapt": {"optim": optim, **adapt}})


def apart(args: argparse.Namespace, depth: int, arm: str) -> dict[str, float]:
    """One arm in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.low_bit_memory", "--cache", args.cache, "--hidden",
             str(args.hidden), "--depths", str(depth), "--batch", str(args.batch), "--arm", arm]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(settings: TrialConfig, cache: str) -> dict[str, float]:
    """Bytes of what one trial holds and computes while it trains."""
    shared = prepared(settings, cache, WorkerContext(), ("base",))
    TokenizedCorpus.open(Path(shared["corpus"])).ids("train")
    imported = resident("VmRSS")
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(settings, Prepared(**shared, teacher=""), [STEPS + 1], Path(scratch),
                      torch.device("cpu"), {})
        run, setup = trial.run, resident("VmHWM")
        assert run is not None
        run.advance(1)  # the first loads code
        ready = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        began = time.process_time()
        run.advance(1 + STEPS)
        seconds, peak = (time.process_time() - began) / STEPS, resident("VmHWM")
        moments = [value for state in run.optimizer.state.values() for value in state.values()
                   if isinstance(value, Tensor)]
        gradients = [value.grad for value in run.trained.values() if value.grad is not None]
        return {**held(trial), "trained": size([*run.trained.values(), *gradients, *moments]),
                "moments": size(moments), "kept_for_backward": kept(trial), "rss_imports": imported,
                "rss_setup": setup, "rss_ready": ready, "rss_peak": peak, "cpu_seconds_a_step": seconds}


def held(trial: Trial) -> dict[str, float]:
    """The values of frozen, quantized weights, and the bytes of all tensors that stand for them while a step
    runs: codes, or masters with the quantized values that `frozen_weights` holds; of the worker's base."""
    values, tensors = 0, 0
    for layer in frozen_linears(trial.model).values():
        values, tensors = values + layer.in_features * layer.out_features, tensors + layer.bytes
    for module in trial.model.modules():
        fake = fake_of(module)
        if fake is not None and not fake.learns(master := master_of(module)):
            values, tensors = values + master.numel(), tensors + 2 * size([master])
    base = trial.cache.get("base")
    own = size(base[1].model.parameters()) if base else 0
    return {"values": values, "frozen": tensors, "frozen_a_value": tensors / values, "base": own}


def kept(trial: Trial) -> int:
    """Bytes that autograd keeps from forward to backward, without the model's own and held weights."""
    assert trial.run is not None
    found: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return value
    with frozen_weights(trial.model, trainable=False), saved_tensors_hooks(keep, lambda value: value):
        known = [*trial.model.parameters(), *trial.model.buffers(),
                 *(fake.held for module in trial.model.modules()
                   if (fake := fake_of(module)) is not None and fake.held is not None)]
        ids = trial.run.batches.at(0)
        loss = trial.process.loss(trial.model.train(), ids, torch.Generator().manual_seed(0))["loss"]
        own = {value.untyped_storage().data_ptr() for value in known}
        total = sum(count for place, count in found.items() if place not in own)
        del loss
    return total


def size(tensors: Any) -> int:
    """Bytes."""
    return sum(value.numel() * value.element_size() for value in tensors)


def resident(name: str) -> int:
    """Bytes of the process by a line of its status (Linux)."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def slopes(first: dict[str, float], last: dict[str, float]) -> dict[str, float]:
    """Bytes a frozen value that deeper models take: by the peak of the process; by that less what is trained
    and what is kept for the backward pass."""
    values = last["values"] - first["values"]
    peak = last["rss_peak"] - first["rss_peak"]
    others = sum(last[name] - first[name] for name in ("trained", "kept_for_backward"))
    return {"peak": peak / values, "peak_beside_training": (peak - others) / values}


if __name__ == "__main__":
    main()
