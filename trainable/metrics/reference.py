"""What a base takes on one kind of device: the yardstick by which latencies of its trials are told."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from trainable.artifacts.artifact import Loaded
from trainable.metrics.base import Yardstick
from trainable.metrics.size import folder_bytes
from trainable.metrics.timing import Call, interleaved
from trainable.models.traced import Form, alike, form
from trainable.seeds import stream

STEPS = 50
"""Denoising steps of `latency_ms`, at most those of the process."""
YARDSTICK = 10
"""The same of the yardstick: enough for a steady time, few enough to be taken beside every trial."""
REPEATS = 9


@dataclass(frozen=True)
class Reference:
    """Milliseconds per text of a base that generates `batch` texts at once, medians: `latency_ms` in `steps`
    denoising steps, `yardstick_ms` in `yardstick`. `size_bytes` is its own."""

    latency_ms: float
    yardstick_ms: float
    steps: int
    yardstick: int
    batch: int
    size_bytes: float
    form: Form
    """How the base ran: what was taken of another form would tell wrong times."""

    @classmethod
    def measured(cls, base: Loaded, batch: int, device: torch.device) -> Reference:
        """By the base's own sampler, in one window."""
        most = base.process.levels
        steps, yardstick = min(STEPS, most), min(YARDSTICK, most)
        calls = [generating(base, batch, count) for count in (steps, yardstick)]
        own, short = np.median(interleaved(calls, REPEATS, device).steady, axis=1) * 1000.0 / batch
        return cls(float(own), float(short), steps, yardstick, batch, float(folder_bytes(base.path)),
                   form(base.model))

    @classmethod
    def read(cls, text: str) -> Reference:
        """From `text()`. Raises ValueError for what is none."""
        try:
            found = cls(**json.loads(text))
        except (TypeError, RecursionError) as error:
            raise ValueError(f"no reference: {error}") from error
        values = [value for name, value in asdict(found).items() if name != "form"]
        if not all(isinstance(value, int | float) and math.isfinite(value) and value > 0 for value in values):
            raise ValueError("no reference: a figure is not a positive number")
        if found.form not in get_args(Form):
            raise ValueError("no reference: how the base ran is not told")
        return found

    def text(self) -> str:
        """What `read` takes."""
        return json.dumps(asdict(self))

    def beside(self, base: Loaded) -> Yardstick:
        """What is run beside what is timed."""
        return Yardstick(generating(base, self.batch, self.yardstick), self.batch, self.yardstick_ms)


def generating(base: Loaded, batch: int, steps: int) -> Call:
    """Generates one batch by the base's sampler at temperature 1, whatever the run that made the base sampled
    at; every call from the same noise, and in the same form."""
    settings = base.config.sampling.model_copy(update={"steps": steps, "temperature": 1.0})
    length = base.config.corpus.max_length

    def call() -> object:
        with alike([base.model]):
            return base.sampling(settings).sample(batch, length, stream("latency reference"))
    return call


def read_from(path: Path) -> Reference | None:
    """What an earlier run took; None where there is nothing to be read."""
    try:
        return Reference.read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
