"""The drill of kills while measuring: `python -m benchmarks.faults_measuring --times 10`.

A search with the product's own jobs on a tiny space; of every trial but the last two, the worker is killed
(kill -9, once) inside measuring, at its first rung or (every other trial) its last: its checkpoint is then
newer than what it has told. Audited: every rung of every trial is recorded once, none twice, all trials are
complete, and a fresh searcher fed with the records proposes the same. Once as usual, once
`--deterministic`. The results stand under `measuring` in results/faults.json. """

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, host
from spaces.schema import Space
from trainable.stages import trial as stage
from trainable.workers.jobs import JOBS as REAL

RUNGS = (2, 4)
SPARED = 2
TINY = {
    "corpus": {"source": {"name": "restaurant", "sentences": 200, "valid_sentences": 40, "max_words": 24},
               "max_length": 26, "min_count": 0},
    "model": {"embedding_dim": 8, "hidden": 16, "layers": 1, "heads": 2, "ffn": 16, "time_dim": 8},
    "diffusion": {"timesteps": 50, "loss": "ce"},
    "teacher": {"name": "kneser_ney", "order": 2},
    "base": {"optim": {"steps": 3}},
    "adapt": {"optim": {"batch_size": 8}},
    "sampling": {"steps": 3},
    "evaluation": {"samples": 4, "heldout": 4, "times": 1, "control_samples": 1, "latency_batch": 1,
                   "latency_repeats": 2, "control_tasks": [{"name": "length"}]},
}


def trial(payload: dict[str, Any], context: Any) -> Iterator[Any]:
    """The product's trial, killed once while it measures; a file in the cache says that it was."""
    measure, number = stage.measure, payload["number"]
    run = Path(payload["folder"]).parts[-3]
    marks = Path(payload["prepared"]["base"]).parent
    spared = number >= int((marks / "times").read_text())

    def deadly(measurement: Any, final: bool) -> Any:
        marker = marks / f"killed-{run}-{number}"
        if final == bool(number % 2) and not spared and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(measurement, final)

    stage.measure = deadly
    try:
        yield from REAL["trial"](payload, context)
    finally:
        stage.measure = measure


JOBS = {**REAL, "trial": trial}


def drilled(times: int, storage: Path, deterministic: int) -> dict[str, Any]:
    """What came of one run in which that many workers were killed."""
    from search.records.run_folder import RunFolder
    from search.run import sweep
    from search.run.validation import problem
    from search.study.opening import replayed

    space = Space.from_dict({
        "name": f"measuring{deterministic}", "trial": TINY,
        "search": {"adapt.optim.lr": {"log": [1e-4, 1e-2]}},
        "objectives": {"nll_bound": "minimize", "size_bytes": "minimize"}, "rungs": list(RUNGS),
        "budget": {"trials": times + SPARED}, "sampler": "random", "scheduler": "none",
        "finish": {"repeats": 0}, "deterministic": deterministic})
    (storage / "cache").mkdir(parents=True, exist_ok=True)
    (storage / "cache" / "times").write_text(str(times))
    began = time.monotonic()
    result = sweep.run(space, storage=storage, jobs="benchmarks.faults_measuring:JOBS", max_concurrent=1)
    folder = RunFolder.open(result.run_folder)
    told = Counter((row["trial"], row["rung"]) for row in folder.rows())
    asked = {(number, rung) for number in range(times + SPARED) for rung in range(len(RUNGS))}
    ends = {row["trial"]: row["state"] for row in folder.rows() if row["state"] != "rung"}
    return {"kills": len(list((storage / "cache").glob(f"killed-{result.run_folder.name}-*"))),
            "trials": len(ends), "rungs": len(told), "forgotten": len(asked - told.keys()),
            "twice": sum(count > 1 for count in told.values()),
            "not_complete": sum(state != "complete" for state in ends.values()),
            "searcher_elsewhere": replayed(space, problem(space), folder).different,
            "minutes": round((time.monotonic() - began) / 60, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="qdlm-measuring-") as storage:
        for name, deterministic in (("usual", 0), ("deterministic", 1)):
            found[name] = drilled(args.times, Path(storage), deterministic)
            print(name, json.dumps(found[name]), flush=True)
    path = RESULTS / "faults.json"
    whole = json.loads(path.read_text()) if path.exists() else {}
    whole["measuring"] = {"command": f"python -m benchmarks.faults_measuring --times {args.times}",
                          "host": host(), **found}
    path.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
