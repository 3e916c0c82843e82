"""What a generated sentence costs, by count: known before anything was trained, and the same
on every machine."""

from __future__ import annotations

from trainable.metrics.base import Measurable, Metric


class GenerationFlops(Metric):
    """Floating-point operations of one generated sentence: the sampler's steps times one forward pass."""

    name, unit, direction = "generation_flops", "FLOP", "minimize"
    cheap = True
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`generation_flops`: matrix products only (2 per multiply-add), quantized weights
        counted like others.

        Guidance is not counted.
        """
        return {self.name: m.sampling.flops(m.config.corpus.max_length)}
