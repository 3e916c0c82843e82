"""A third backbone and process, for tests alone: words are replaced by words drawn evenly (D3PM, arXiv
2107.03006, with a uniform transition), a small encoder guesses the clean ones. What a plug-in of these kinds
has to bring, and no more.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder

from trainable.diffusion.process import Drawing, Process, Samples, Traced
from trainable.models.backbone import Backbone
from trainable.models.diffusion_lm.denoiser import SITES, DiffusionLM
from trainable.models.parts import linear_names
from trainable.models.prediction import Prediction
from trainable.registry import Params, Registry, Rule

SAMPLERS = Registry("uniform sampler", {"redraw": "uniform_diffusion:Redraw"})


class UniformLM(Backbone):
    """An encoder over noisy words, its head tied to the table."""

    name = "uniform_lm"

    class Params(Params):
        hidden: int = Field(16, ge=8)
        positions: int = Field(64, ge=8)
        rules = (Rule("diffusion.name", lambda name, own: name == "uniform", "is not read; legal: uniform"),)

    def __init__(self, params, words, levels, seed):
        super().__init__()
        self.params, self.levels, self.symbols = params, levels, {}
        h = params.hidden
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.words, self.positions = nn.Embedding(words, h), nn.Embedding(params.positions, h)
            self.level = nn.Linear(1, h)
            self.body = BertEncoder(BertConfig(hidden_size=h, num_hidden_layers=1, num_attention_heads=2,
                                               intermediate_size=2 * h, attn_implementation="sdpa"))

    @classmethod
    def from_config(cls, params, process, vocabulary, *, seed=0, symbols=(), pretrained=True):
        return cls(params, len(vocabulary), process.timesteps, seed)

    def sites(self):
        inside = {site: linear_names(self, *SITES[site]) for site in ("attention", "ffn")}
        return {"embedding": ["words"], "projection": ["level"], **inside}

    lora_targets = DiffusionLM.lora_targets

    def token_parameters(self):
        return ("words.weight",)

    def embed(self, ids):
        return self.words(ids)

    def predict(self, state, t, previous=None, temperature=1.0, condition=None):
        x = (self.words(state) + self.positions.weight[: state.shape[1]]
             + self.level(t[:, None, None] / self.levels))
        hidden = self.body(x).last_hidden_state
        logits = F.linear(hidden, self.words.weight) / temperature
        return Prediction(None, logits.log_softmax(-1), hidden)


class Redraw:
    """Draws clean words, then noises them again to the next level."""

    name = "redraw"
    Params = Params

    def __init__(self, params):
        self.params = params


class Uniform(Process):
    """Words replaced by words drawn evenly from the vocabulary."""

    name, samplers, guides = "uniform", SAMPLERS, ()

    class Params(Params):
        timesteps: int = Field(20, ge=2)
        condition_drop: float = 0.0

    @property
    def levels(self):
        return self.params.timesteps

    def kept(self, t):
        """Share of words that are what they were, at times t."""
        return torch.cos((torch.as_tensor(t) + 1) / self.levels * math.pi / 2).clamp(min=1e-3)

    def corrupt(self, model, ids, t, generator):
        drawn = torch.randint(model.words.num_embeddings, ids.shape, generator=generator)
        stays = torch.rand(ids.shape, generator=generator) < self.kept(t)[:, None]
        return torch.where(stays, ids, drawn)

    def loss(self, model, ids, generator, condition=None):
        t = torch.randint(self.levels, (len(ids),), generator=generator)
        log_probs = model.predict(self.corrupt(model, ids, t, generator), t).log_probs
        nll = F.nll_loss(log_probs.flatten(0, 1), ids.flatten())
        return {"loss": nll, "ce": nll}

    def sampling(self, model, config):
        return UniformSampling(self, model, config)

    @torch.no_grad()
    def bound(self, model, ids, count, generator):
        """Sum over t of KL(q(x_s | x_t, x_0) || p(x_s | x_t)), by `count` draws of t; s = t - 1 is
        clean at t = 0."""
        total = torch.zeros(len(ids), dtype=torch.float64)
        for t in torch.randint(self.levels, (count,), generator=generator).tolist():
            times = torch.full((len(ids),), t)
            x = self.corrupt(model, ids, times, generator)
            p = model.predict(x, times).log_probs.double().exp()
            v, a_t = p.shape[-1], float(self.kept(t))
            a_s = float(self.kept(t - 1)) if t else 1.0
            step = a_t / a_s * F.one_hot(x, v) + (1 - a_t / a_s) / v  # q(x_t | x_s = j)
            z = a_t * F.one_hot(x, v) + (1 - a_t) / v  # q(x_t | x_0 = j)
            q = step * (a_s * F.one_hot(ids, v) + (1 - a_s) / v) / z.gather(-1, ids[..., None])
            guess = step * (a_s * p / z + (1 - a_s) / v * (p / z).sum(-1, keepdim=True))
            kl = torch.where(q > 0, q * (q.clamp(min=1e-300).log() - guess.clamp(min=1e-300).log()), 0.0)
            total += kl.sum(dim=(1, 2)) * self.levels / count
        return {"words": total}


class UniformSampling(Drawing):
    """Draws from a `UniformLM`."""

    def __init__(self, process, model, config):
        self.process, self.model, self.config = process, model, config
        self.sampler = SAMPLERS.build(config.sampler)
        self.steps = min(config.steps, process.levels)

    @torch.no_grad()
    def generate(self, n, length, generator, guide=None, prompt=None):
        self.model.eval()
        x = torch.randint(self.model.words.num_embeddings, (n, length), generator=generator)
        for t in torch.linspace(self.process.levels - 1, 0, self.steps).long().tolist():
            probabilities = self.model.predict(x, torch.full((n,), t), None,
                                               self.config.temperature).log_probs.exp()
            x = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(n, length)
            if t:
                x = self.process.corrupt(self.model, x, torch.full((n,), t - 1), generator)
        return Samples(x, torch.full((n,), self.steps))

    def under(self, condition, scale):
        return self

    def traced(self, length):
        return Traced(torch.tensor([self.steps]), 0.0)
