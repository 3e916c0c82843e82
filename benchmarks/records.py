"""CPU seconds of the commands that read a run's records, on made-up runs:
`python -m benchmarks.records [TRIALS] [--before COMMIT] [--work DIR] [--commands front,status]`.

Two runs are written as a search of the quickstart's space leaves them, through `RunFolder` itself: a proposal
and one or two rows of about 100 columns a trial. `front`, `status`, `report` and `compare` then read them,
each in a process of its own, and so do they in the checked-out COMMIT if one is given: what they print has to
be the same, byte by byte, but for the last digits of volumes. The runs are kept in DIR and not written again,
and figures of other commands, of as many trials, stay in results/records.json: so it can be done in pieces.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.against import ROOT, git
from benchmarks.common import RESULTS, save
from search.pareto.table import column_types
from search.records.run_folder import RunFolder
from spaces.schema import Space, load

SPACE = ROOT / "spaces" / "quickstart.yaml"
BITS = {"none": 32, "binary": 1, "ternary_twn": 2, "fixed:Q0i4f": 5, "fixed:Q0i8f": 9, "fixed:Q4i0f": 5,
        "fixed:Q2i2f": 5}
TASKS = ("length_count", "semantic_grammar", "pos_grammar", "spans_grammar")
OF_TASK = ("", "_se", "_exact", "_off", "_unk", "_human", "_perplexity")
OTHERS = ("train_loss", "train_ce", "tokens_per_second", "trainable_params", "total_params", "train_seconds",
          "file_bytes", "packed_bytes", "bits_per_weight", "bits_per_weight_embedding",
          "bits_per_weight_projection", "bits_per_weight_attention", "bits_per_weight_ffn", "exported_bytes",
          "perplexity_heldout", "seconds_perplexity", "diversity", "diversity_distinct1",
          "diversity_distinct4", "diversity_sentences", "diversity_copied", "diversity_heldout",
          "seconds_diversity", "unk_share", "unk_share_se", "unk_share_heldout", "seconds_controllability",
          "latency_ms_p95", "latency_ms_base", "latency_ms_ratio", "latency_ms_ratio_se",
          "generation_flops", "size_bytes_weights", "embedding_rms", "start_seconds")
COMMANDS = {"front": ["front", "RUN"], "front_json": ["front", "RUN", "--format", "json"],
            "front_within": ["front", "RUN", "--within", "size_bytes <= 200kB", "--best", "perplexity"],
            "status": ["status", "RUN"], "status_json": ["status", "RUN", "--format", "json"],
            "report": ["report", "RUN", "--out", "PAGE"], "compare": ["compare", "RUN", "OTHER"],
            "compare_json": ["compare", "RUN", "OTHER", "--format", "json"]}
MEMORY = Path("/dev/shm")
"""Where there is a disk in memory, the runs are written there: each row waits for the disk."""
DIGITS = 12
"""Of volumes, which are sums in another order."""


def trials(space: Space, count: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    """The entries of each trial: its proposal, then its rows. Half are stopped at the first rung, one in 30
    fails; what is measured follows bits, adapter and steps of the sampler, with noise."""
    noise = np.random.default_rng(seed)
    versions = "ray 2.60.0, optuna 5.0.0, torch 2.13.0+cpu, transformers 5.23.0, peft 0.21.2"
    for trial in range(count):
        name = str(noise.choice(list(BITS)))
        values = {"quantization.quantizer": name, "quantization.sites": ["embedding", "projection"],
                  "lora.rank": int(noise.choice([0, 4, 8])),
                  "adapt.optim.lr": float(10 ** noise.uniform(-4, -2)),
                  "sampling.steps": int(noise.choice([10, 20, 50])),
                  "sampling.temperature": float(noise.uniform(0.3, 0.9))}
        yield [{"event": "ask", "trial": trial, "values": values},
               *rows(trial, values, noise, space.rungs, versions)]


def rows(trial: int, values: dict[str, Any], noise: np.random.Generator, rungs: tuple[int, ...],
         versions: str) -> Iterator[dict[str, Any]]:
    """What a trial reports, and its end."""
    bits, steps, rank = BITS[values["quantization.quantizer"]], values["sampling.steps"], values["lora.rank"]
    told = {f"config.{path}": value for path, value in values.items()}
    fate = "failed" if noise.random() < 1 / 30 else "stopped" if noise.random() < 0.5 else "complete"
    for rung, fidelity in enumerate(rungs):
        worse = 1.5 if rung == 0 else 1.0
        measured = dict(zip(OTHERS, noise.random(len(OTHERS)).tolist(), strict=True))
        for task in TASKS:
            columns = [f"controllability_{task}{of}" for of in OF_TASK]
            measured |= dict(zip(columns, noise.random(len(columns)).tolist(), strict=True))
        measured |= {
            "perplexity": float(worse * (5 + 30 / steps + 20 / (bits + 1)) * noise.lognormal(0, 0.3)),
            "perplexity_se": float(noise.uniform(0.2, 1.0)),
            "controllability": float(min(1.0, (0.5 + 0.05 * rank) * noise.uniform(0.6, 1.1) / worse)),
            "controllability_se": 0.03,
            "latency_ms": float(0.4 * steps * noise.lognormal(0, 0.2)), "latency_ms_se": 0.2,
            "size_bytes": float(20000 * bits + 2000 * rank + int(noise.integers(1000))),
            "perplexity_teacher": "gpt2-1x128-words",
            "controllability_oracle": "length=count,semantic=grammar,pos=grammar,spans=grammar"}
        end = fate != "complete" or rung == len(rungs) - 1
        reasons = {"stopped": f"beaten by trial {max(0, trial - 1)} at rung {rung}: 1 of 3 go on",
                   "failed": "the worker ran out of memory"}
        yield {"trial": trial, "rung": rung, "state": fate if end else "rung", "tag": None,
               "fidelity": fidelity, **told, **(measured if fate != "failed" else {}),
               "seconds": 4.0 + 10.0 * rung + float(noise.random()), "device": "cpu", "seed": 0,
               "versions": versions, "reason": reasons.get(fate) if end else None}
        if end:
            return


def write(storage: Path, count: int, seed: int) -> Path:
    """A run's folder, as its driver leaves it."""
    space = load(SPACE)
    space.box.told({"latency_ms": 14.0, "size_bytes": 540e3})
    meta = {"columns": column_types(space.dimensions), "groups": 2, "box": dict(space.box),
            "versions": "made up by benchmarks/records.py"}
    with RunFolder.create(storage, f"made-{count}", space.to_yaml(), meta, parquet_every=1e9) as run:
        run.event({"event": "run_started", "address": "local", "run": run.path.name, "name": space.name,
                   "resumed": False, "groups": 2})
        run.event({"event": "prepare", "stage": "base", "seconds": 120.0})
        for asked, *told in trials(space, count, seed):
            run.event(asked, sync=False)
            for row in told:
                run.append(row)
        run.event({"event": "run_ended", "state": "finished"})
        run.close("finished")
    return run.path


def timed(tree: Path, arguments: list[str]) -> tuple[float, bytes]:
    """CPU seconds of a command of the code in `tree`, and what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "search", *arguments], cwd=tree, env=environment,
                          stdout=subprocess.PIPE, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def content(page: Path) -> bytes:
    """What a report shows, but for the moment in which it was made."""
    packed = max(re.findall(r"[A-Za-z0-9+/=]{200,}", page.read_text(encoding="utf-8")),
                 key=lambda text: (gzip.decompress(base64.b64decode(text))[:1] == b"{", len(text)))
    found = json.loads(gzip.decompress(base64.b64decode(packed)))
    found["run"]["made"] = None
    return json.dumps(found).encode()


def rounded(text: bytes) -> bytes:
    """The same with numbers at `DIGITS` figures."""
    return re.sub(rb"\d+\.\d{13,}(?:e-?\d+)?", lambda number: f"{float(number[0]):.{DIGITS}g}".encode(), text)


@contextmanager
def checked_out(commit: str | None, scratch: Path) -> Iterator[dict[str, Path]]:
    """The trees that are compared."""
    if commit is None:
        yield {"now": ROOT}
        return
    before = scratch / "before"
    git("worktree", "add", "--detach", "--quiet", str(before), commit)
    try:
        yield {"before": before, "now": ROOT}
    finally:
        git("worktree", "remove", "--force", str(before))


def main() -> None:
    """Write results/records.json."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int, nargs="?", default=10_000)
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="a folder that stays; a temporary one if not given")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    args = parser.parse_args()
    chosen = [name for name in args.commands.split(",") if name]
    if unknown := set(chosen) - set(COMMANDS):
        parser.error(f"unknown {', '.join(sorted(unknown))}; legal: {', '.join(COMMANDS)}")
    path = RESULTS / "records.json"
    figures: dict[str, Any] = {}
    if path.exists() and (earlier := json.loads(path.read_text()))["trials"] == args.trials:
        figures = earlier["figures"]
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        scratch = Path(place)
        run, other = (made(args.work or scratch, args.trials, seed, figures) for seed in (0, 1))
        with checked_out(args.before, scratch) as trees:
            for name in chosen:
                figures[name] = compared(name, COMMANDS[name], trees, args.repeats, run, other, scratch)
                print(name, figures[name], flush=True)
    save("records", {"trials": args.trials, "before": args.before, "figures": figures})


def made(place: Path, count: int, seed: int, figures: dict[str, Any]) -> Path:
    """The run of a seed in a folder, written unless it is there."""
    storage = place / f"runs-{seed}"
    found = sorted(storage.glob(f"made-{count}-*"))
    if found and json.loads((found[0] / "run.json").read_text())["state"] == "finished":
        return found[0]
    began = time.process_time()
    run = write(storage, count, seed)
    figures["written"] = {"cpu_s": time.process_time() - began,
                          "megabytes": (run / "events.jsonl").stat().st_size / 1e6}
    print(figures["written"], flush=True)
    return run


def compared(name: str, command: list[str], trees: dict[str, Path], repeats: int, run: Path, other: Path,
             scratch: Path) -> dict[str, Any]:
    """Median CPU seconds of one command in each tree, and whether they say the same."""
    seconds: dict[str, list[float]] = {tree: [] for tree in trees}
    texts: dict[str, bytes] = {}
    places = {"RUN": str(run), "OTHER": str(other), "PAGE": str(scratch / "page.html")}
    for _ in range(repeats):
        for tree, path in trees.items():
            spent, texts[tree] = timed(path, [places.get(word, word) for word in command])
            seconds[tree].append(spent)
            if name == "report":
                texts[tree] = content(scratch / "page.html")
    row: dict[str, Any] = {f"{tree}_cpu_s": statistics.median(values) for tree, values in seconds.items()}
    if len(trees) > 1:
        row |= {"ratio": row["now_cpu_s"] / row["before_cpu_s"],
                "same_bytes": texts["now"] == texts["before"],
                "same": rounded(texts["now"]) == rounded(texts["before"])}
    return row


if __name__ == "__main__":
    main()
