"""Drawing texts from a masked LM under the settings of a trial."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spaces.config import SamplingConfig
from spaces.errors import UserError
from trainable import compat
from trainable.corpora.tokenized import START
from trainable.diffusion.guide import Guide, TokenGuide, refused
from trainable.diffusion.masked.filling import generate
from trainable.diffusion.masked.looking import Request
from trainable.diffusion.masked.samplers.base import Sampler
from trainable.diffusion.masked.streams import row_seeds
from trainable.diffusion.noise import Noise
from trainable.diffusion.process import Drawing, Samples, Traced
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.traced import as_it_is, traces_of
from trainable.quantization.sites import at_rest
from trainable.registry import MASKED_SAMPLERS

COUNTED = 16
"""Texts that are written to count operations: how many passes a text takes is chance under most samplers."""


class MaskedSampling(Drawing):
    """Fills in masked rows under one `SamplingConfig`, of which `steps` is the most passes
    that a text may take.

    The model is put in eval mode for the call and its mode restored; quantized weights are
    computed once per call.
    """

    def __init__(self, model: MaskedLM, config: SamplingConfig, condition: Tensor | None = None,
                 scale: float = 0.0, structured: bool = True, sampler: Sampler | None = None):
        """`condition` [n, K, L] as the model takes it, for the n texts that will be drawn,
        and `scale` beyond it (classifier-free guidance; 0 = as told). `structured`: rows read START words END
        PAD... and stay so. `sampler`: one for this config that has asked the model already; weights
        must be the same for as long as it is used."""
        self.model, self.config = model, config
        self.condition, self.scale, self.structured = condition, scale, structured
        self.sampler = sampler or MASKED_SAMPLERS.build(config.sampler)

    def under(self, condition: Tensor, scale: float) -> MaskedSampling:
        """The same sampler for texts that the model is told something of."""
        device = next(self.model.parameters()).device
        return MaskedSampling(self.model, self.config, condition.to(device), scale, self.structured,
                              self.sampler)

    @property
    def steps(self) -> int:
        """Passes of a generation, at most (twice as many with a condition that is exceeded)."""
        return self.config.steps

    def generate(self, n: int, length: int, generator: Noise, guide: Guide | None = None,
                 prompt: Tensor | None = None, rows: Tensor | None = None) -> Samples:
        """`n` texts, and the passes that each took.

        Args: `prompt`, ids [n, P] or [P], P up to `length`, -1 where the text is free: what is given is
        kept bit for bit. `guide` reweights the posterior of tokens before they are drawn. `rows` [n]:
        the numbers of these texts, 0..n-1 when not given: text 7 is the same whatever is drawn beside it.
        Raises `UserError` for a prompt that does not fit.
        """
        if guide is not None and not isinstance(guide, TokenGuide):
            raise refused(guide, "masked", TokenGuide.by)
        device = next(self.model.parameters()).device
        numbers = torch.arange(n, device=device) if rows is None else rows.to(device)
        with at_rest(self.model), compat.as_traced():
            request = Request(self.config.steps, self.config.temperature, guide, self.scale, self.structured,
                              traces_of(self.model))
            return generate(self.model, self.sampler, self._template(n, length, prompt).to(device),
                            row_seeds(generator, numbers), request, self.condition)

    def traced(self, length: int) -> Traced:
        """Of `COUNTED` texts, by `torch.utils.flop_counter` (2 per multiply-add). What a sampler asks once
        for all texts is left out."""
        device = next(self.model.parameters()).device
        plain = MaskedSampling(self.model, self.config, structured=self.structured, sampler=self.sampler)
        if self.sampler.asks:
            plain.generate(COUNTED, length, torch.Generator(device).manual_seed(0))
        generator = torch.Generator(device).manual_seed(0)
        # The counter does not know every fused attention kernel; the plain products are the same number.
        with (as_it_is([self.model]), sdpa_kernel(SDPBackend.MATH),
              FlopCounterMode(display=False) as counter):
            passes = plain.generate(COUNTED, length, generator).passes
        return Traced(passes, counter.get_total_flops() / COUNTED)

    def _template(self, n: int, length: int, prompt: Tensor | None) -> Tensor:
        longest = self.model.params.positions
        if length > longest:
            raise UserError(f"{length} positions asked for; the model has {longest}")
        template = torch.full((n, length), self.model.mask_id)
        if prompt is not None:
            if prompt.shape[-1] > length:
                raise UserError(f"a prompt of {prompt.shape[-1]} tokens is longer than the {length} "
                                "positions of a text")
            given = prompt.expand(n, -1).cpu()
            template[:, :given.shape[1]] = torch.where(given < 0, self.model.mask_id, given)
        if self.structured:  # a row begins with START, unless a prompt says something else there
            template[:, 0] = torch.where(template[:, 0] == self.model.mask_id, START, template[:, 0])
        return template
