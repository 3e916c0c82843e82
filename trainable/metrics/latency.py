"""Milliseconds per generated sentence, measured on the exported model."""

from __future__ import annotations

import numpy as np

from trainable.metrics.base import Measurable, Metric, Runnable
from trainable.metrics.timing import Call, interleaved, median_error


def _generating(runnable: Runnable, m: Measurable) -> Call:
    """Generates one batch; every call from the same noise."""
    return lambda: runnable.generate(m.config.evaluation.latency_batch, m.generator("latency"))


class Latency(Metric):
    """Median milliseconds per sentence of the exported model, paired with the unquantized base in
    the same window."""

    name, unit, direction, stage = "latency_ms", "ms", "minimize", "final"
    ideal = 0.0
    proxy = "generation_flops"

    def measure(self, m: Measurable) -> dict[str, float]:
        """`latency_ms` (median), `_p95`, `_se`; with a base also `_base`, `_ratio` (median of
        paired), `_ratio_se`.

        The batch is `evaluation.latency_batch` sentences; times are per sentence. `qdlm bench`
        takes the same times.
        """
        if m.artifact is None:
            raise ValueError("latency_ms is measured on an exported model, and there is none")
        folders = [m.artifact] if m.base_artifact is None else [m.artifact, m.base_artifact]
        calls = [_generating(m.load(folder), m) for folder in folders]
        per_sentence = 1000.0 / m.config.evaluation.latency_batch
        own, *base = interleaved(calls, m.config.evaluation.latency_repeats, m.device) * per_sentence
        if not base:
            return self._columns(own)
        ratio = own / base[0]
        return {**self._columns(own), "latency_ms_base": float(np.median(base[0])),
                "latency_ms_ratio": float(np.median(ratio)), "latency_ms_ratio_se": median_error(ratio)}

    def _columns(self, values: np.ndarray) -> dict[str, float]:
        return {"latency_ms": float(np.median(values)), "latency_ms_p95": float(np.quantile(values, 0.95)),
                "latency_ms_se": median_error(values)}
