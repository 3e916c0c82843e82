"""Stored bits per weight: what a total-bits budget is stated in."""

from __future__ import annotations

from trainable.metrics.base import Measurable, Metric


class BitsPerWeight(Metric):
    """Stored bits per value of the deployed model, scales, tables and codebooks counted; float32 is 32."""

    name, unit, direction = "bits_per_weight", "bits", "minimize"
    cheap = True
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`bits_per_weight` over all values, and `bits_per_weight_SITE` over the weights of each site.

        Counted from the packed tensors (`facts`), so that `bits_per_weight_embedding <= 4` is a constraint on
        what is on disk; empty where nothing was packed.
        """
        return {name: float(value) for name, value in m.facts.items() if name.startswith("bits_per_weight")}
