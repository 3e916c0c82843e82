"""Milliseconds per generated sentence, measured on the exported model."""

from __future__ import annotations

import time

import numpy as np
import torch

from trainable.metrics.base import Measurable, Metric, Runnable


def _seconds(runnable: Runnable, m: Measurable) -> float:
    """Wall time of generating one batch; every call generates from the same noise."""
    generator = m.generator("latency")
    _wait(m.device)
    begun = time.perf_counter()
    runnable.generate(m.config.evaluation.latency_batch, generator)
    _wait(m.device)
    return time.perf_counter() - begun


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(first: Runnable, second: Runnable, m: Measurable) -> tuple[np.ndarray, np.ndarray]:
    """Seconds per batch of both models, [repeats] each, after one warm-up batch each.

    The two take turns within one window and swap places every time (A B, B A, ...), so that what else the machine does
    falls on both alike.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    pair = (first, second)
    for runnable in pair:
        _seconds(runnable, m)
    for repeat in range(m.config.evaluation.latency_repeats):
        for which in (0, 1) if repeat % 2 == 0 else (1, 0):
            taken[which].append(_seconds(pair[which], m))
    return np.array(taken[0]), np.array(taken[1])


class Latency(Metric):
    """Median milliseconds per sentence of the exported model, paired with the unquantized base in the same window."""

    name, unit, direction, stage = "latency_ms", "ms", "minimize", "final"
    proxy = "generation_flops"

    def measure(self, m: Measurable) -> dict[str, float]:
        """`latency_ms` (median), `_p95`, `_se`; with a base also `_base`, `_ratio` (median of paired), `_ratio_se`.

        The batch is `evaluation.latency_batch` sentences; times are per sentence. Standard errors of medians are 1.2533
        standard deviations over the root of the repeats (normal theory): a guide to the spread, not a test.
        """
        if m.artifact is None:
            raise ValueError("latency_ms is measured on an exported model, and there is none")
        model = m.load(m.artifact)
        per_sentence = 1000.0 / m.config.evaluation.latency_batch
        if m.base_artifact is None:
            own = self._alone(model, m) * per_sentence
            return self._columns("latency_ms", own)
        own, base = (seconds * per_sentence for seconds in interleaved(model, m.load(m.base_artifact), m))
        ratio = own / base
        return {**self._columns("latency_ms", own), "latency_ms_base": float(np.median(base)),
                "latency_ms_ratio": float(np.median(ratio)), "latency_ms_ratio_se": _median_error(ratio)}

    def _alone(self, model: Runnable, m: Measurable) -> np.ndarray:
        _seconds(model, m)
        return np.array([_seconds(model, m) for _ in range(m.config.evaluation.latency_repeats)])

    def _columns(self, name: str, values: np.ndarray) -> dict[str, float]:
        return {name: float(np.median(values)), f"{name}_p95": float(np.quantile(values, 0.95)),
                f"{name}_se": _median_error(values)}


def _median_error(values: np.ndarray) -> float:
    return float(1.2533 * values.std(ddof=1) / np.sqrt(len(values)))
