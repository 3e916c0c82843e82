"""Diffusion-LM's denoiser: a transformer over noisy word latents (Li et al., arXiv 2205.14217, appendix B).

up-projection(x_t) + time embedding + positions -> LayerNorm -> BERT encoder -> down-projection. The output
is the clean latent x0 under the published `mse` loss. Under `ce` it is the query of the rounding head,
whose posterior over words gives x0 as the expected embedding (score interpolation, CDCD, arXiv 2211.15089).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from spaces.config import Site, TrialConfig
from spaces.errors import UserError
from trainable.models.backbone import Backbone
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoising import Denoising
from trainable.models.diffusion_lm.embedding import (
    STORED_RMS,
    RoundingHead,
    initial_table,
    nearest_rows,
    normalize_rows,
)
from trainable.models.diffusion_lm.encoder import Encoder
from trainable.models.diffusion_lm.interchange import bert_of
from trainable.models.diffusion_lm.packed_embedding import PackedTable, packed_table
from trainable.models.parts import Table, embedding, linear_names
from trainable.models.prediction import Prediction, probabilities

SITES: dict[Site, tuple[tuple[str, ...], re.Pattern[str]]] = {
    "projection": (("up", "time", "down"), re.compile("")),
    "attention": (("body",), re.compile(r"(^|\.)attention\.(self\.(query|key|value)|output\.dense)$")),
    "ffn": (("body",), re.compile(r"(^|\.)(intermediate|(?<!attention\.)output)\.dense$")),
}
"""Where the Linear modules of each role lie, and what their names look like."""


class Noise(Protocol):
    """What the denoiser knows of its process."""

    timesteps: int
    loss: Literal["mse", "ce"]
    mixed_times: float


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Times of any shape, on the scale 0..1000 -> sinusoids [..., dim] with periods from
    2 pi to 20,000 pi."""
    half = dim // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _projection(inputs: int, hidden: int, outputs: int, depth: int) -> nn.Sequential:
    if depth == 1:
        return nn.Sequential(nn.Linear(inputs, outputs))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


class DiffusionLM(Backbone):
    """Diffusion-LM's denoiser: a BERT encoder over noisy word latents, with its embedding table
    and rounding head."""

    name = "diffusion_lm"
    traceable = True
    Params = DiffusionLMConfig
    params: DiffusionLMConfig

    def __init__(self, model: DiffusionLMConfig, diffusion: Noise, vocabulary: Sequence[str], seed: int = 0,
                 symbols: Sequence[str] = ()):
        """`symbols`: what a condition can say (`trainable.control.conditions`); none in a model that
        is told nothing."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.params, self.diffusion = model, diffusion
        d, hidden = model.embedding_dim, model.hidden
        self._packed_lengths: tuple[Tensor, Tensor] | None = None
        self.word_embedding: nn.Embedding | PackedTable = embedding(len(vocabulary), d)
        # built under torch.device("meta"): weights will be assigned
        blank = self.word_embedding.weight.is_meta
        if not blank:
            self.word_embedding.weight.data.copy_(initial_table(model, vocabulary, generator))
            if model.normalize_embeddings:
                self.rescale_table()
        frozen = model.embeddings == "pretrained" and not model.pretrained_trainable
        self.word_embedding.weight.requires_grad_(not frozen)
        self.rounding = RoundingHead(len(vocabulary), model.rounding)
        self.up = _projection(d * (2 if model.self_conditioning else 1), hidden, hidden,
                              model.projection_depth)
        self.time = nn.Sequential(nn.Linear(model.time_dim, 4 * model.time_dim), nn.SiLU(),
                                  nn.Linear(4 * model.time_dim, hidden))
        self.position_embedding = embedding(model.positions, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.dropout = nn.Dropout(model.dropout)
        self.body = Encoder(hidden=hidden, layers=model.layers, heads=model.heads, ffn=model.ffn,
                            dropout=model.dropout)
        self.down = _projection(hidden, hidden, d, model.projection_depth)
        self.symbols = {symbol: i for i, symbol in enumerate(symbols, 1)}
        if symbols:  # 0 says nothing, and so does every symbol before training
            self.condition_embedding = embedding(len(symbols) + 1, hidden, padding_idx=0)
            nn.init.zeros_(self.condition_embedding.weight)
        if not blank:
            self._initialize_body(generator)

    @classmethod
    def from_config(cls, params: DiffusionLMConfig, process: Noise, vocabulary: Sequence[str], *,
                    seed: int = 0, symbols: Sequence[str] = (), pretrained: bool = True) -> Self:
        """As the constructor; `pretrained=False` draws the table where it would be read from a file."""
        if not pretrained:
            params = params.model_copy(update={"embeddings": "learned"})
        return cls(params, process, vocabulary, seed, symbols)

    def sites(self) -> dict[Site, list[str]]:
        """embedding: the word table, which the rounding head shares. projection: all Linear in `up`,
        `time`, `down`. attention: query, key, value and output of every layer of `body`. ffn: its
        feed-forward layers."""
        linear = {site: linear_names(self, roots, pattern) for site, (roots, pattern) in SITES.items()}
        return {"embedding": ["word_embedding"], **linear}

    def lora_targets(self) -> dict[str, str]:
        """BERT's names."""
        return {"query": r"self\.query", "key": r"self\.key", "value": r"self\.value",
                "output": r"attention\.output\.dense", "ffn": r"\d+\.(?:intermediate|output)\.dense"}

    def token_parameters(self) -> tuple[str, ...]:
        """The table, and the bias of the rounding head."""
        return ("word_embedding.weight", "rounding.bias")

    def symbol_parameters(self) -> tuple[str, ...]:
        """The condition's table."""
        return ("condition_embedding.weight",)

    def packed_table(self, choice: Table, entry: dict[str, Any], parts: dict[str, Tensor],
                     device: torch.device) -> PackedTable | None:
        """See `packed_embedding.packed_table`."""
        return packed_table(choice, entry, parts, self.diffusion.loss, device)

    @torch.no_grad()
    def as_transformers(self) -> tuple[Any, str]:
        """BERT with the positions and the norm of this model. Its last state on ids is `hidden` of clean
        words at time 0; on `inputs_embeds` = up(x_t) + time(t), `hidden` of x_t."""
        rows = self.table()
        rows = torch.cat([rows, torch.zeros_like(rows)], -1) if self.params.self_conditioning else rows
        clean = self.up(rows) + self.time(timestep_embedding(torch.zeros(1), self.params.time_dim))
        assert isinstance(self.body, Encoder)
        return bert_of(self.body, self.position_embedding.weight, self.norm, clean), "encoder."

    def finish_base(self) -> None:
        """Rows that are used normalized are stored at one RMS, whatever training left them at."""
        if self.params.normalize_embeddings and self.params.embeddings == "learned":
            self.rescale_table()

    def start_trial(self, config: TrialConfig) -> None:
        """The table is stored at the RMS that the trial asks for, and frozen where it came from outside."""
        if config.quantization.embedding_rms is not None:
            if not self.params.normalize_embeddings:
                raise UserError("quantization.embedding_rms needs model.normalize_embeddings: true")
            self.rescale_table(config.quantization.embedding_rms)
        frozen = self.params.embeddings == "pretrained" and not self.params.pretrained_trainable
        self.word_embedding.weight.requires_grad_(not frozen)

    def _initialize_body(self, generator: torch.Generator) -> None:
        """BERT's rule for body and positions, N(0, 0.02) at hidden 768, scaled to other widths
        as 1 / sqrt(hidden).

        Unscaled, a narrow body starts almost linear and stays word salad for thousands of steps.
        The projections follow torch's fan-in rule, seeded.
        """
        std = 0.02 * (768 / self.params.hidden) ** 0.5
        for module in [*self.body.modules(), self.position_embedding]:
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std, generator=generator)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for part in (self.up, self.time, self.down):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    bound = module.in_features ** -0.5
                    nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                    nn.init.uniform_(module.bias, -bound, bound, generator=generator)

    @torch.no_grad()
    def rescale_table(self, rms: float = STORED_RMS) -> None:
        """Store normalized rows at this RMS. Changes nothing that the model computes, only what
        quantizers see."""
        weight = self.word_embedding.weight
        weight.copy_(normalize_rows(weight) * rms)

    def table(self) -> Tensor:
        """[V, d] rows as the model uses them: quantized where the site is, then normalized
        where asked for."""
        weight = self.word_embedding.weight
        return normalize_rows(weight) if self.params.normalize_embeddings else weight

    def embed(self, ids: Tensor) -> Tensor:
        """[B, L] word ids -> [B, L, d] clean latents."""
        if isinstance(self.word_embedding, PackedTable):
            rows = self.word_embedding.rows(ids)
            return normalize_rows(rows) if self.params.normalize_embeddings else rows
        return torch.nn.functional.embedding(ids, self.table())

    def logits(self, latent: Tensor, table: Tensor | None = None) -> Tensor:
        """[B, L, d] latents -> [B, L, V] logits of the rounding head."""
        if table is None and isinstance(self.word_embedding, PackedTable):
            return self.rounding.on_codes(latent, self.word_embedding, *self._lengths())
        return self.rounding(latent, self.table() if table is None else table)

    def expected(self, probabilities: Tensor, table: Tensor | None = None) -> Tensor:
        """[B, L, V] probabilities of words -> [B, L, d] their mean row."""
        if table is None and isinstance(self.word_embedding, PackedTable):
            return self.word_embedding.expected(probabilities, self._lengths()[0])
        table = self.table() if table is None else table
        return probabilities.to(table.dtype) @ table

    def nearest(self, latent: Tensor) -> Tensor:
        """[B, L, d] latents -> those of the words nearest in L2: clamping (Diffusion-LM, section 4.3)."""
        if isinstance(self.word_embedding, PackedTable):
            factor, length = self._lengths()
            distance = length.square() - 2 * self.word_embedding.dot(latent, factor)
            return self.embed(distance.argmin(-1))
        return nearest_rows(latent, self.table())

    def _lengths(self) -> tuple[Tensor, Tensor]:
        """Of a packed table: what a stored row is multiplied by to be the row that the model uses,
        and its length then."""
        if self._packed_lengths is None:
            assert isinstance(self.word_embedding, PackedTable)
            stored = torch.cat([torch.linalg.vector_norm(rows, dim=-1)
                                for _, rows in self.word_embedding.parts()])
            factor = torch.ones_like(stored)
            if self.params.normalize_embeddings:
                factor = self.params.embedding_dim**0.5 / stored.clamp(min=1e-6)
            self._packed_lengths = factor, stored * factor
        return self._packed_lengths

    def forward(self, x_t: Tensor, t: Tensor, x0_prev: Tensor | None = None,
                condition: Tensor | None = None) -> Tensor:
        """[B, L, d] noisy latents at integer times t -> [B, L, d] raw output (x0 for `mse`, query for `ce`).

        `t` is [B], or [B, L] where each word has a time of its own. `condition` [B, K, L] are ids of
        `symbols`, K of them at each position, 0 for none; None is a condition of zeros.
        """
        return self.down(self.hidden(x_t, t, x0_prev, condition))

    def hidden(self, x_t: Tensor, t: Tensor, x0_prev: Tensor | None = None,
               condition: Tensor | None = None) -> Tensor:
        """The body's last state [B, L, hidden], for the same arguments."""
        if self.noise is not None:
            self.noise.show(*self.noise_of(x_t, t))
        return self.state(x_t, self.time_rows(t), self.positions(x_t.shape[1]), x0_prev, condition)

    def time_rows(self, t: Tensor) -> Tensor:
        """What times [B] or [B, L] add to the body's input: [B, 1 or L, hidden]."""
        scaled = t.float() * (1000.0 / self.diffusion.timesteps)
        time = self.time(timestep_embedding(scaled, self.params.time_dim))
        return time[:, None] if t.dim() == 1 else time

    def positions(self, length: int) -> Tensor:
        """What the first positions add: [L, hidden]."""
        return self.position_embedding.weight[:length]

    def state(self, x_t: Tensor, time: Tensor, positions: Tensor, x0_prev: Tensor | None = None,
              condition: Tensor | None = None) -> Tensor:
        """`hidden`, given what the times and the positions add."""
        if self.params.self_conditioning:
            x_t = torch.cat([x_t, torch.zeros_like(x_t) if x0_prev is None else x0_prev], dim=-1)
        hidden = self.up(x_t) + time + positions
        if condition is not None:
            hidden = hidden + self.condition_embedding(condition).sum(1)
        hidden = self.dropout(self.norm(hidden))
        return self.body(hidden)

    def noise_of(self, state: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor]:
        """t / T, the mean of a row whose words have times of their own; in its upper half all are masked."""
        assert t is not None
        level = t.float() / self.diffusion.timesteps
        level = level if level.ndim == 1 else level.mean(1)
        return level, (level >= 0.5)[:, None].expand(state.shape[:2])

    def predict(self, x_t: Tensor, t: Tensor, x0_prev: Tensor | None = None, temperature: float = 1.0,
                condition: Tensor | None = None) -> Prediction:
        """What the denoiser believes of x_t: clean latent and log-posterior over words, both
        differentiable in x_t."""
        hidden = self.hidden(x_t, t, x0_prev, condition)
        raw = self.down(hidden)
        if isinstance(self.word_embedding, PackedTable):
            log_probs = torch.log_softmax(self.logits(raw).float() / temperature, dim=-1)
            x0 = raw if self.diffusion.loss == "mse" else self.expected(probabilities(log_probs))
            return Prediction(x0, log_probs, hidden)
        table = self.table()
        logits = self.rounding.at(table, temperature)(raw)
        x0 = raw if self.diffusion.loss == "mse" else self.expected(logits.softmax(-1), table)
        return Prediction(x0, logits.log_softmax(-1), hidden)

    def denoising(self, length: int, temperature: float, clamp: bool) -> Denoising | None:
        """`predict` for samplers, at this length and temperature, with the weights as they are now; None
        where only `predict` itself will do."""
        plain = type(self).predict is DiffusionLM.predict and "predict" not in vars(self)
        if not plain or self.noise is not None or isinstance(self.word_embedding, PackedTable):
            return None
        return Denoising(self, length, temperature, clamp and self.diffusion.loss == "mse")

    def extrapolated(self, conditional: Prediction, unconditional: Prediction, scale: float,
                     temperature: float = 1.0) -> Prediction:
        """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598, equation 6): (1 + scale) conditional
        - scale unconditional.

        Under `mse` of x0, which is linear in the predicted noise at equal x_t; under `ce` of the
        log-posterior, that is p(conditional)^(1 + scale) / p(unconditional)^scale, normalized.
        """
        if self.diffusion.loss == "mse":
            assert conditional.x0 is not None and unconditional.x0 is not None
            x0 = (1 + scale) * conditional.x0 - scale * unconditional.x0
            log_probs = torch.log_softmax(self.logits(x0).float() / temperature, dim=-1)
            return Prediction(x0, log_probs, conditional.hidden)
        log_probs = torch.log_softmax((1 + scale) * conditional.log_probs - scale * unconditional.log_probs,
                                      dim=-1)
        return Prediction(self.expected(probabilities(log_probs)), log_probs, conditional.hidden)
