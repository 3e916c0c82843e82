"""What an exported model costs to run: time of each batch and step count, memory, bytes.
Behind `qdlm bench`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spaces.errors import UserError
from trainable.artifacts.artifact import Loaded, load
from trainable.artifacts.packed import CONFIG, WEIGHTS
from trainable.metrics.size import folder_bytes
from trainable.metrics.timing import interleaved, median_interval
from trainable.models.parts import Table
from trainable.models.traced import alike
from trainable.quantization import int8_products
from trainable.quantization.int8_body import Int8Dynamic, products
from trainable.seeds import stream
from trainable.stages.reference import device_name

BASE = "base"
_PROBE = "trainable.benchmarking.memory_probe"


def open_pair(artifact: Path, against: str | None, device: str, table: Table = "auto") -> list[Loaded]:
    """The artifact, and what it is timed against: another folder, or `base`, the model that its
    trial started from.

    `table` says how the artifact's own word table is kept; see `trainable.artifacts.artifact.load`.

    Raises `UserError` for a folder that is no artifact, or where the base is not known or no longer there.
    """
    loaded = load(artifact, device, table=table)
    if against is None:
        return [loaded]
    if against != BASE:
        return [loaded, load(against, device)]
    base = loaded.facts.get("base")
    if not isinstance(base, str) or not (Path(base) / CONFIG).is_file():
        why = ("does not say which base it came from" if base is None
               else f"came from {base}, which is not there")
        raise UserError(f"--against base: {artifact} {why}; give the base's folder: "
                        "--against RUN-CACHE/base-...")
    return [loaded, load(base, device)]


def cells(sides: Sequence[Loaded], batches: Sequence[int], steps: Sequence[int], repeats: int,
          device: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """For each batch and number of sampler steps, the times of all sides, taken in turns in one window.

    `p50`, `p95` and `interval` (95 %, of the median) are milliseconds a sentence; `throughput` is sentences
    a second at the median, all by the clock. With two sides `ratio` is the median of first over second in the
    same turn, with its 95 % interval, by the steady times of `trainable.metrics.timing`. `form`: how all of
    them ran, `traced` or `eager` (`trainable.models.traced.alike`).
    """
    for side in sides:
        most = side.process.levels
        if max(steps) > most:
            raise UserError(f"--steps {max(steps)}: {side.path} has {most} noise levels; legal: 1 to {most}")
    for count in steps:
        for batch in batches:
            calls = [lambda side=side: side.generate(batch, stream("bench", seed), steps=count)  # noqa: B023
                     for side in sides]
            with alike([side.model for side in sides]) as form:
                taken = interleaved(calls, repeats, device)
            cell: dict[str, Any] = {"batch": batch, "steps": count, "form": form,
                                    "sides": [_summary(*(times * 1000 / batch for times in side))
                                              for side in zip(*taken, strict=True)]}
            if len(calls) == 2:
                ratio = taken.steady[0] / taken.steady[1]
                cell |= {"ratio": float(np.median(ratio)), "ratio_interval": list(median_interval(ratio))}
            yield cell


def _summary(times: np.ndarray, steady: np.ndarray) -> dict[str, Any]:
    middle = float(np.median(times))
    return {"p50": middle, "p95": float(np.quantile(times, 0.95)), "interval": list(median_interval(times)),
            "throughput": 1000 / middle, "times": [round(float(value), 4) for value in times],
            "steady": [round(float(value), 4) for value in steady]}


def kernels(sides: Sequence[Loaded]) -> list[dict[str, int]]:
    """For each model how many layers run which product of int8 codes, as chosen when it was loaded."""
    return [products(side.model) for side in sides]


def hint(side: Loaded) -> str | None:
    """One line where a model's int8 layers multiply floats because no integer product of this CPU is quick
    and exact for their codes; None where they have one, or were told to."""
    body, able = side.config.quantization.body, int8_products.widths(torch.device("cpu"))
    asked = Int8Dynamic.Params.model_validate(body.params) if body.name == Int8Dynamic.name else None
    if (asked is None or asked.product == int8_products.FLOAT32 or asked.activation_bits in able
            or int8_products.FLOAT32 not in products(side.model)):
        return None
    narrower = "" if not able else (f"; with {able[0]} bits one does: quantization.body: "
                                    f"{{name: int8_dynamic, activation_bits: {able[0]}}}")
    return (f"no integer product of this CPU is quick and exact for activations of {asked.activation_bits} "
            f"bits, so int8 layers multiply floats{narrower}")


def weight(side: Loaded, device: str, batch: int, steps: int, table: Table = "auto") -> dict[str, Any]:
    """Bytes on disk and bytes in memory of one model. Memory is taken in a process of its own.

    `resident` is what a process that has all libraries loaded holds more after opening the artifact and
    generating one batch, `peak` the most that it held meanwhile (on CUDA: what torch allocates there). A file
    that is mapped counts where it was read. None where the platform cannot tell.
    """
    command = [sys.executable, "-m", _PROBE, str(os.getpid()), str(side.path.resolve()), device, str(batch),
               str(steps), table]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()),
                   "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"measuring the memory of {side.path} failed: {reason}")
    return {"disk": folder_bytes(side.path), "weights": (side.path / WEIGHTS).stat().st_size,
            **json.loads(done.stdout.strip().splitlines()[-1])}


def surroundings(device: str) -> dict[str, Any]:
    """Where figures were taken: device, threads, versions, load. Without the machine's name."""
    return {"device": device, "processor": device_name(device), "threads": torch.get_num_threads(),
            "cpus": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version(),
            "load": round(os.getloadavg()[0], 2), "date": time.strftime("%Y-%m-%d")}

