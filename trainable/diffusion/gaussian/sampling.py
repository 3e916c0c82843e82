"""Generation: from noise to word ids, with room for guidance after every denoising step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spaces.config import SamplingConfig
from spaces.errors import UserError
from trainable.diffusion.gaussian.asking import asked_by
from trainable.diffusion.gaussian.schedule import Schedule, randn
from trainable.diffusion.guide import Guide, LatentGuide, refused
from trainable.diffusion.noise import Noise
from trainable.diffusion.process import Drawing, Samples, Traced
from trainable.models.prediction import Prediction
from trainable.quantization.sites import at_rest
from trainable.registry import GAUSSIAN_SAMPLERS

if TYPE_CHECKING:
    from trainable.models.diffusion_lm.denoiser import DiffusionLM


class GaussianSampling(Drawing):
    """Samples sentences from a denoiser under one `SamplingConfig`.

    The model is put in eval mode for the call and its mode restored; quantized weights are
    computed once per call.
    """

    def __init__(self, model: DiffusionLM, schedule: Schedule, config: SamplingConfig,
                 condition: Tensor | None = None, scale: float = 0.0):
        """`condition` [n, K, L] as the model takes it, for the n sentences that will be sampled;
        `scale`: how far to go beyond it, away from the prediction without (classifier-free guidance;
        0 = the condition alone)."""
        self.model, self.schedule, self.config = model, schedule, config
        self.condition, self.scale = condition, scale
        self.sampler = GAUSSIAN_SAMPLERS.build(config.sampler)

    def under(self, condition: Tensor, scale: float) -> GaussianSampling:
        """The same sampler for sentences that the model is told something of."""
        return GaussianSampling(self.model, self.schedule, self.config,
                                condition.to(next(self.model.parameters()).device), scale)

    @property
    def steps(self) -> int:
        """Denoising steps of one generation."""
        return len(self.schedule.times(self.config.steps))

    def generate(self, n: int, length: int, generator: Noise, guide: Guide | None = None,
                 prompt: Tensor | None = None) -> Samples:
        """`n` sentences, by noise from `generator` alone, so that a guide with no inner step equals plain
        sampling bit for bit; of several generators each draws for its share of the sentences. Passes: as many
        for each sentence, a guide's own forward passes counted (its backward ones not), two for each word on
        latents where a condition is exceeded."""
        if guide is not None and not isinstance(guide, LatentGuide):
            raise refused(guide, "gaussian", LatentGuide.by)
        if prompt is not None:
            raise UserError("diffusion gaussian keeps no prompt: "
                            "steer it by evaluation.guidance.by: gradient")
        device = next(self.model.parameters()).device
        with at_rest(self.model):
            return self._denoise(n, length, generator, guide, device)

    def _denoise(self, n: int, length: int, generator: Noise, guide: LatentGuide | None,
                 device: torch.device) -> Samples:
        x = randn((n, length, self.model.params.embedding_dim), generator, device)
        times = self.schedule.times(self.config.steps)
        alpha_bar = self.schedule.alpha_bar.tolist()
        previous = None
        with asked_by(self, times, length, device) as asked:
            for step, t in enumerate(times[:-1]):
                x0 = asked.guess(x, step, previous)
                previous = x0 if self.model.params.self_conditioning else None
                s = times[step + 1]
                mean, sigma = self.sampler.step(x, x0, alpha_bar[t], alpha_bar[s])
                x = mean if sigma == 0 else mean + sigma * randn(x.shape, generator, device)
                if guide is not None:
                    time = torch.full((n,), s, device=device)
                    believed = asked.believed(step + 1, time, previous, guide)
                    x = guide(x, time, mean, sigma, believed, step)
            ids = asked.words(x, len(times) - 1, previous).argmax(-1)
        return Samples(ids, torch.full((n,), asked.looks * self._passes, device=device))

    @property
    def _passes(self) -> int:
        """Forward passes of one word on latents: told and untold where a condition is exceeded."""
        return 1 if self.condition is None or not self.scale else 2

    def noised(self, ids: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """[B, L] word ids -> [B, L, d] their latents at times t."""
        return self.schedule.noise(self.model.embed(ids), t, generator)

    def traced(self, length: int) -> Traced:
        """The steps, and as many times one forward pass, traced by `torch.utils.flop_counter` on one sentence
        (2 per multiply-add). With a condition that is exceeded, a step is told and untold."""
        device = next(self.model.parameters()).device
        latents = torch.zeros(1, length, self.model.params.embedding_dim, device=device)
        time = torch.full((1,), self.schedule.timesteps - 1, device=device)
        # The counter does not know every fused attention kernel; the plain products are the same number.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.predict(latents, time, None)
        return Traced(torch.tensor([self.steps * self._passes]),
                      float(counter.get_total_flops() * self.steps))

    def predict(self, x: Tensor, t: Tensor, x0_prev: Tensor | None) -> Prediction:
        """The denoiser's word on latents x [B, L, d] at times t [B]; clamped where configured.
        Differentiable in x."""
        prediction = self._believed(x, t, x0_prev)
        if self.model.diffusion.loss == "mse" and self.config.clamp:
            assert prediction.x0 is not None
            clamped = self.model.nearest(prediction.x0)
            straight_through = prediction.x0 + (clamped - prediction.x0).detach()
            prediction.x0 = straight_through
        return prediction

    def _believed(self, x: Tensor, t: Tensor, x0_prev: Tensor | None) -> Prediction:
        """With a condition: told and untold in one forward pass, and what lies beyond."""
        temperature = self.config.temperature
        if self.condition is None or self._passes == 1:
            return self.model.predict(x, t, x0_prev, temperature, self.condition)
        both = torch.cat([self.condition, torch.zeros_like(self.condition)])
        previous = None if x0_prev is None else torch.cat([x0_prev, x0_prev])
        found = self.model.predict(torch.cat([x, x]), torch.cat([t, t]), previous, temperature, both)
        conditional, unconditional = found.rows(slice(len(x))), found.rows(slice(len(x), None))
        return self.model.extrapolated(conditional, unconditional, self.scale, temperature)
