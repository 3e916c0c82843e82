"""What a generated sentence costs, by count: known before anything was trained, and the same on every machine."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainable.metrics.base import Measurable, Metric


class GenerationFlops(Metric):
    """Floating-point operations of one generated sentence: the sampler's steps times one forward pass."""

    name, unit, direction = "generation_flops", "FLOP", "minimize"
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`generation_flops`: matrix products only (2 per multiply-add), quantized weights counted like others.

        Guidance is not counted. The forward pass is traced by `torch.utils.flop_counter` on one sentence.
        """
        process, positions = m.process, m.config.corpus.max_length
        latents = torch.zeros(1, positions, m.config.model.embedding_dim, device=m.device)
        time = torch.full((1,), m.config.diffusion.timesteps - 1, device=m.device)
        # The counter does not know every fused attention kernel; the plain products are the same number.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            process.predict(latents, time, None)
        steps = len(process.schedule.times(m.config.sampling.steps))
        return {self.name: float(counter.get_total_flops() * steps)}
