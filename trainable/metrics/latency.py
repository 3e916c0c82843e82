"""Milliseconds per generated sentence, measured on the exported model."""

from __future__ import annotations

import numpy as np

from trainable.metrics.base import Measurable, Metric, Runnable
from trainable.metrics.timing import Call, interleaved, median_error, warm_up
from trainable.models.traced import alike


def _generating(runnable: Runnable, m: Measurable) -> Call:
    """Generates one batch; every call from the same noise."""
    return lambda: runnable.generate(m.config.evaluation.latency_batch, m.generator("latency"))


class Latency(Metric):
    """Median milliseconds per sentence of the exported model, told by a yardstick: the base, which takes
    turns with it."""

    name, unit, direction, stage = "latency_ms", "ms", "minimize", "final"
    ideal = 0.0
    proxy = "generation_flops"

    def measure(self, m: Measurable) -> dict[str, float]:
        """`latency_ms` (median), `_p95`, `_se`; `_wall`, the median of the clock, and `_alone`, 1 where
        nothing else of this user computed on the node meanwhile; with a base also `_base`, `_ratio` (median
        of paired), `_ratio_se`.

        The batch is `evaluation.latency_batch` sentences; times are per sentence. With a yardstick
        (`trainable.metrics.reference`) a time is the multiple of the yardstick's in the same turn, by what
        the yardstick took when the run was prepared: so trials compare by ratio, whatever else a machine did,
        and on whichever device each ran. `qdlm bench` takes the same times. The note `latency_ms_form` says
        how model and base ran, `traced` or `eager`: as graphs only where both can
        (`trainable.models.traced`), so that a ratio is of the weights.
        """
        if m.artifact is None:
            raise ValueError("latency_ms is measured on an exported model, and there is none")
        folders = [m.artifact] if m.base_artifact is None else [m.artifact, m.base_artifact]
        runners = [m.load(folder) for folder in folders]
        calls = [_generating(runner, m) for runner in runners]
        yardstick = m.yardstick()
        if yardstick is not None:
            calls.append(yardstick.call)
        with alike([runner.model for runner in runners]) as form:
            warm_up(calls, m.device, m.pause)  # before others are made to wait
            with m.alone() as alone:
                taken = interleaved(calls, m.config.evaluation.latency_repeats, m.device, warm=True)
        m.notes["latency_ms_form"] = form
        per_sentence = 1000.0 / m.config.evaluation.latency_batch
        own, *others = taken.steady * per_sentence
        unit = 1.0 if yardstick is None else yardstick.ms / (taken.steady[-1] * 1000.0 / yardstick.batch)
        found = {**self._columns(own * unit), "latency_ms_alone": float(alone),
                 "latency_ms_wall": float(np.median(taken.wall[0]) * per_sentence)}
        if m.base_artifact is None:
            return found
        ratio = own / others[0]
        return {**found, "latency_ms_base": float(np.median(others[0] * unit)),
                "latency_ms_ratio": float(np.median(ratio)), "latency_ms_ratio_se": median_error(ratio)}

    def _columns(self, values: np.ndarray) -> dict[str, float]:
        return {"latency_ms": float(np.median(values)), "latency_ms_p95": float(np.quantile(values, 0.95)),
                "latency_ms_se": median_error(values)}
