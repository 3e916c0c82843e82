"""Backbones for tests of masked diffusion: a tiny network, and a model that knows the law of
its rows exactly."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from spaces.config import PluginRef, SamplingConfig
from trainable.corpora.tokenized import END, PAD, START
from trainable.diffusion.masked.samplers.base import Sampler
from trainable.diffusion.masked.sampling import MaskedSampling
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.masked_lm.config import MaskedLMConfig
from trainable.registry import MASKED_SAMPLERS


def build(name: str, **params) -> Sampler:
    """A sampler by name."""
    return MASKED_SAMPLERS.build(PluginRef(name=name, **params))


def drawing(model: nn.Module, name: str = "quota", steps: int = 32, structured: bool = True,
            **params) -> MaskedSampling:
    """Texts of a model by a sampler."""
    config = SamplingConfig(sampler=PluginRef(name=name, **params), steps=steps)
    return MaskedSampling(model, config, structured=structured)


def tiny(vocabulary: int = 20, seed: int = 1, symbols: tuple[str, ...] = (), **changes) -> MaskedLM:
    """A network that is trained for nothing, with decided opinions (its table is scaled up)."""
    params = MaskedLMConfig(**{**dict(hidden=16, layers=1, heads=2, ffn=32, positions=24), **changes})
    model = MaskedLM(params, vocabulary, seed=seed, symbols=symbols).eval()
    with torch.no_grad():
        model.word_embedding.weight.mul_(3)
    return model


class Joint(nn.Module):
    """Knows that row r of `rows` [R, L] has probability `chances` [R], and answers by Bayes' rule."""

    def __init__(self, rows: Tensor, chances: Tensor, vocabulary: int):
        super().__init__()
        self.rows, self.chances, self.vocabulary, self.mask_id = (rows, chances.double(), vocabulary,
                                                                  vocabulary)
        self.shift = False
        self.params = SimpleNamespace(self_conditioning=False, positions=rows.shape[1], hidden=1)
        self.nothing = nn.Parameter(torch.zeros(1))
        self.asked = 0
        """Rows that were asked about, over all passes."""

    def forward(self, ids: Tensor, at: Tensor | None = None, previous=None, condition=None) -> Tensor:
        self.asked += len(ids)
        fits = ((ids[:, None] == self.rows) | (ids[:, None] == self.mask_id)).all(2)
        weights = fits * self.chances
        one_hot = nn.functional.one_hot(self.rows, self.vocabulary).double()
        logits = torch.einsum("br,rlv->blv", weights, one_hot).log()
        return logits if at is None else logits[at]


def sentences(count: int, length: int, words: int, seed: int = 0) -> Joint:
    """`count` different rows START words END PAD... with uneven chances; texts of every number of
    words that fits."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = []
    tries = 0
    while len(rows) < count:
        size = tries % (length - 1)
        text = torch.randint(4, 4 + words, (size,), generator=generator).tolist()
        row = [START, *text, END, *[PAD] * (length - size - 2)]
        rows += [row] * (row not in rows)
        tries += 1
    chances = torch.rand(count, generator=generator) + 0.1
    return Joint(torch.tensor(rows), chances / chances.sum(), 4 + words)


def random_rows(count: int = 6, length: int = 9, vocabulary: int = 20, seed: int = 0) -> Tensor:
    """[count, length] rows START words END PAD with random words."""
    ids = torch.randint(4, vocabulary, (count, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -2], ids[:, -1] = START, END, PAD
    return ids
