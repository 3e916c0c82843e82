"""What a run's base takes, taken once for each kind of device and kept in the cache."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from spaces.config import TrialConfig
from trainable.artifacts.artifact import load
from trainable.artifacts.packed import CONFIG, WEIGHTS
from trainable.metrics.reference import STEPS, YARDSTICK, Reference, read_from
from trainable.registry import METRICS
from trainable.stages.evaluation import wanted
from trainable.storage.folders import content_key, digest
from trainable.storage.window import Window

CODE = 2
"""Raised when a change in the code makes earlier times wrong."""


def times_wanted(config: TrialConfig) -> bool:
    """Whether a trial measures latency."""
    return wanted(METRICS.build_default("latency_ms"), config.evaluation.metrics)


def device_kind(device: torch.device) -> str:
    """What times depend on beside the model: the device and the threads that compute on it."""
    name = device_name(device)
    return name if device.type == "cuda" else f"{name}, {torch.get_num_threads()} threads"


def device_name(device: torch.device | str) -> str:
    """The device's model; of a processor where the system tells it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
                platform.machine())


def reference(config: TrialConfig, cache: Path, base: Path, device: torch.device,
              window: Window) -> Reference:
    """What the base takes on this kind of device: from the cache, or taken now and kept there."""
    batch = config.evaluation.latency_batch
    key = content_key(CODE, STEPS, YARDSTICK, batch, device_kind(device), torch.__version__,
                      digest(base / CONFIG), digest(base / WEIGHTS))
    path = cache / f"latency-{key}.json"
    found = read_from(path)
    if found is None:
        loaded = load(base, device)
        with window.alone():
            found = Reference.measured(loaded, batch, device)
        aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        aside.write_text(found.text(), encoding="utf-8")
        aside.replace(path)
    return found
