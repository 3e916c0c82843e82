"""Block diffusion of one canvas whose noise is random tokens (D3PM with a uniform transition, arXiv
2107.03006), as transformers' DiffusionGemma reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.config import SamplingConfig
from trainable.diffusion.canvas.config import CanvasConfig
from trainable.diffusion.canvas.sampling import CanvasSampling
from trainable.diffusion.process import Process
from trainable.registry import CANVAS_SAMPLERS

if TYPE_CHECKING:
    from trainable.models.diffusion_gemma.backbone import DiffusionGemma


class Canvas(Process["DiffusionGemma"]):
    """Tokens replaced by tokens drawn evenly, guessed anew all at once."""

    name = "canvas"
    Params = CanvasConfig
    samplers = CANVAS_SAMPLERS
    guides = ()

    @property
    def levels(self) -> int:
        """`timesteps`."""
        return self.params.timesteps

    def kept(self, t: Tensor) -> Tensor:
        """Share of tokens that are what they were at levels t; at -1 all, at the last none."""
        return 1 - (t.double() + 1) / self.levels

    def corrupt(self, model: DiffusionGemma, ids: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """[B, L] ids: each token behind the first drawn anew with the share of level t [B]."""
        device = generator.device
        drawn = torch.randint(model.vocabulary, ids.shape, generator=generator, device=device).to(ids.device)
        u = torch.rand(ids.shape, generator=generator, device=device, dtype=torch.float64).to(ids.device)
        stays = u < self.kept(t).to(ids.device)[:, None]
        stays[:, 0] = True
        return torch.where(stays, ids, drawn)

    def loss(self, model: DiffusionGemma, ids: Tensor, generator: torch.Generator,
             condition: Tensor | None = None) -> dict[str, Tensor]:
        """Cross entropy of the clean tokens of the canvas, mean; half of the batches are told a first guess.
        Scalars `loss` and `ce`, the same."""
        t = torch.randint(self.levels, (len(ids),), generator=generator, device=generator.device)
        state, previous = self.corrupt(model, ids, t, generator), None
        if torch.rand((), generator=generator, device=generator.device) < 0.5:
            with torch.no_grad():
                previous = model.predict(state, t).log_probs
        said = model.predict(state, t, previous).log_probs
        ce = F.nll_loss(said[:, 1:].flatten(0, 1), ids[:, 1:].flatten())
        return {"loss": ce, "ce": ce.detach()}

    def sampling(self, model: DiffusionGemma, config: SamplingConfig) -> CanvasSampling:
        """By the model's own generate."""
        return CanvasSampling(model, config)

    @torch.no_grad()
    def bound(self, model: DiffusionGemma, ids: Tensor, count: int,
              generator: torch.Generator) -> dict[str, Tensor]:
        """Sum over t of KL(q(x_s | x_t, x_0) || p(x_s | x_t)), s = t - 1, by `count` draws of t (D3PM,
        equation 1); nothing is left of a text at the last level, so the prior adds 0. The model is not told
        its own guess, which the chain does not hold."""
        total = torch.zeros(len(ids), dtype=torch.float64)
        drawn = torch.randint(self.levels, (count,), generator=generator, device=generator.device)
        for t in drawn.tolist():
            state = self.corrupt(model, ids, torch.full((len(ids),), t), generator)
            said = model.predict(state, torch.full((len(ids),), t, device=ids.device)).log_probs
            for row in range(len(ids)):  # one by one: [L, V] of a large vocabulary is enough at once
                total[row] += self._step(said[row, 1:], state[row, 1:], ids[row, 1:], t)
        return {"tokens": total * self.levels / count}

    def _step(self, log_probs: Tensor, state: Tensor, ids: Tensor, t: int) -> float:
        """KL of one step of one text, nats: of q(x_s | x_t, x_0) = q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0)
        to its mean over the model's x_0. All arrays [L, V]."""
        p, v = log_probs.double().exp(), log_probs.shape[-1]
        kept_t, kept_s = (float(self.kept(torch.tensor(level))) for level in (t, t - 1))
        now, clean = F.one_hot(state, v), F.one_hot(ids, v)
        ratio = kept_t / kept_s
        step = ratio * now + (1 - ratio) / v
        seen = kept_t * now + (1 - kept_t) / v  # q(x_t | x_0 = each token)
        law = step * (kept_s * clean + (1 - kept_s) / v) / seen.gather(-1, ids[:, None])
        weighted = p / seen
        guess = step * (kept_s * weighted + (1 - kept_s) / v * weighted.sum(-1, keepdim=True))
        return float(torch.where(law > 0, law * (law.clamp(min=1e-300).log() - guess.clamp(min=1e-300).log()),
                                 0.0).sum())
