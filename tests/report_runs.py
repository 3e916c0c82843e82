"""Run folders for tests of what is shown: a small one whose texts try to break out of the page,
and large ones."""

import json
from pathlib import Path

import numpy as np

from search.records.run_folder import RunFolder

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>&lt;b&gt; =1+1 ☃"
SPACE = """
name: toy
description: "A toy </script><img src=x onerror=window.hacked=1>"
trial:
  corpus: {source: {name: restaurant, sentences: 200, max_words: 28}, max_length: 32, min_count: 0}
search:
  quantization.quantizer: {choice: [none, binary, "fixed:Q0i4f"]}
  lora.rank: {int: [0, 8], step: 4}
  adapt.optim.lr: {log: [1.0e-4, 1.0e-2]}
objectives: {perplexity: minimize, controllability: maximize, latency_ms: minimize}
constraints: ["latency_ms <= 40"]
budget: {trials: 12}
rungs: [10, 40]
seed: 3
"""
COSTS = [{"site": "ffn", "choice": "3", "bytes": 1500, "kl": 0.02},
         {"site": "ffn", "choice": "4", "bytes": 2000, "kl": 0.01},
         {"site": HOSTILE, "choice": "4", "bytes": 900, "kl": 0.04}]
BOX = {"perplexity": [5.0, 60.0], "controllability": [1.0, 0.0], "latency_ms": [0.0, 60.0]}


def rows(count, seed=0, start=1000.0):
    """`count` trials: two of three reach the last rung, the rest are stopped at the first,
    every 10th fails."""
    noise = np.random.default_rng(seed)
    for trial in range(count):
        rank, quantizer = int(noise.choice([0, 4, 8])), ["none", "binary", "fixed:Q0i4f"][trial % 3]
        lr, latency = float(10 ** noise.uniform(-4, -2)), float(noise.uniform(5, 45))
        row = {"trial": trial, "tag": "unquantized" if trial == 0 else None,
               "config.quantization.quantizer": quantizer, "config.lora.rank": rank,
               "config.adapt.optim.lr": lr, "perplexity": 50.0 - 5 * rank + float(noise.random()),
               "perplexity_se": 0.5, "perplexity_heldout": 3.5,
               "controllability": float(noise.random()), "latency_ms": latency, "device": "cpu 1",
               "seed": 0, "versions": HOSTILE, "note": HOSTILE, "fidelity": 10, "rung": 0}
        begun = start + 4.0 * trial
        if trial % 10 == 9:
            yield {**row, "state": "failed", "reason": HOSTILE, "perplexity": None, "time": begun + 1,
                   "seconds": 1.0}
            continue
        if trial % 3 == 2 and trial > 3:
            yield {**row, "state": "stopped", "time": begun + 1, "seconds": 1.0,
                   "reason": f"beaten by trial {trial - 1} at rung 0: 1 of 3 go on"}
            continue
        yield {**row, "state": "rung", "perplexity": row["perplexity"] * 2, "time": begun + 1, "seconds": 1.0}
        yield {**row, "state": "complete", "rung": 1, "fidelity": 40, "time": begun + 3, "seconds": 3.0}


def write_run(folder: Path, count: int, state: str = "finished") -> Path:
    """A run folder as a run leaves it, its events written at once."""
    run = RunFolder.create(folder, "toy", SPACE, {"box": BOX, "groups": 2, "versions": HOSTILE})
    with run:
        events = [{"time": 990.0, "event": "run_started", "groups": 1},
                  {"time": 999.0, "event": "prepare", "stage": "base", "seconds": 9.0},
                  {"time": 999.0, "event": "prepare", "stage": "sensitivity", "costs": COSTS,
                   "kl_per_bit": {"ffn": 0.01, HOSTILE: 0.02}},
                  *({"event": "row", **row} for row in rows(count)),
                  {"time": 1000.0 + 4 * count, "event": "run_ended"}]
        (run.path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        (run.path / "samples").mkdir()
        (run.path / "samples" / "trial-0000.json").write_text(json.dumps([
            {"task": "", "target": "", "text": HOSTILE, "success": None},
            {"task": "length", "target": "length=12", "text": "a place to eat", "success": 1.0}]))
        run.lock()
        run.close(state)
    return run.path
