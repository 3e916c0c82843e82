"""What a generated sentence costs, by count: the same on every machine, and known at every rung."""

from __future__ import annotations

from trainable.metrics.base import Measurable, Metric


class GenerationFlops(Metric):
    """Floating-point operations of one generated sentence: the passes that it took (`nfe`) times one forward
    pass."""

    name, unit, direction = "generation_flops", "FLOP", "minimize"
    along = "perplexity"
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`generation_flops`: matrix products only (2 per multiply-add), quantized weights
        counted like others. Passes are those measured on the texts of this rung, so that two samplers of as
        many steps differ by where they stop.

        Guidance is not counted.
        """
        traced = m.traced()
        per_pass = traced.flops / float(traced.passes.double().mean())
        return {self.name: per_pass * float(m.passes().double().mean())}
