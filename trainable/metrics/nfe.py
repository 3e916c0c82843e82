"""Number of function evaluations: how often the network is asked for one text."""

from __future__ import annotations

from trainable.metrics.base import Measurable, Metric


class NFE(Metric):
    """Forward passes of one generated text, mean over texts.

    A text counts the passes that it took part in: rows that are finished leave the batch.
    """

    name, unit, direction = "nfe", "passes", "minimize"
    along = "perplexity"
    ideal = 1.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`nfe`, its `_se` over texts, and `_p95`, the 95th percentile. Of free texts: those under control
        are in `controllability_nfe`."""
        passes = m.passes().double()
        error = float(passes.std(correction=1) / len(passes) ** 0.5) if len(passes) > 1 else 0.0
        return {"nfe": float(passes.mean()), "nfe_se": error, "nfe_p95": float(passes.quantile(0.95))}
