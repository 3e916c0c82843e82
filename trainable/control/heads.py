"""Controllers trained on noisy latents at all times: small heads on the denoiser's own body, which is
their shared trunk.

log p(tags, spans | x_t, t) with x_t = the trial's own (quantized) embeddings plus noise of every level,
as the denoiser meets them. The trunk stays as it is; a head sees its last state, so its gradient reaches x_t
through the denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainable.control.oracles.base import Oracle, Span
from trainable.control.syntax import EDGE, INDEX, TAGS, readings
from trainable.corpora.base import Split
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.gaussian.losses import draw_times
from trainable.diffusion.process import Process
from trainable.quantization.sites import frozen_weights
from trainable.seeds import stream
from trainable.training.optimizer import adamw, set_rate

if TYPE_CHECKING:
    from trainable.models.diffusion_lm.denoiser import DiffusionLM

STEPS, BATCH, RATE = 400, 64, 4e-3
"""Of the fit: about 10 s on one core for the quickstart's model."""


class Heads(nn.Module):
    """A tagger and a span labeler over the trunk's state [B, L, H]."""

    def __init__(self, hidden: int, labels: Sequence[str], rank: int = 64):
        super().__init__()
        self.labels = {label: i for i, label in enumerate(labels)}
        self.tagger = nn.Sequential(nn.Linear(hidden, rank), nn.GELU(), nn.Linear(rank, len(TAGS)))
        self.left, self.right = nn.Linear(2 * hidden, rank), nn.Linear(2 * hidden, rank)
        self.labeler = nn.Linear(rank, len(self.labels))

    def log_tags(self, hidden: Tensor) -> Tensor:
        """[B, L, len(TAGS)] log-probabilities."""
        return self.tagger(hidden.float()).log_softmax(-1)

    def spans(self, hidden: Tensor, sentences: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """[N, labels] logits of the spans from position `first` to `last` (all [N]) of `sentences`.

        A span is judged by its end words and their neighbors outside: (before, first) and (last, after).
        """
        hidden = hidden.float()
        left = self.left(torch.cat([hidden[:, :-1], hidden[:, 1:]], -1))
        right = self.right(torch.cat([hidden[:, :-1], hidden[:, 1:]], -1))
        return self.labeler(F.gelu(left[sentences, first - 1] + right[sentences, last]))

    def log_prob(self, hidden: Tensor, wanted: Sequence[Sequence[Span]]) -> tuple[Tensor, Tensor]:
        """(log-probability [N] of each wanted span, whose sentence it is [N]). Labels never
        seen are left out."""
        rows = [(b, first + 1, last + 1, self.labels[label]) for b, spans in enumerate(wanted)
                for first, last, label in spans if label in self.labels]
        sentence, first, last, label = torch.tensor(rows, device=hidden.device).view(-1, 4).T
        logits = self.spans(hidden, sentence, first, last)
        return F.logsigmoid(logits.gather(1, label[:, None])[:, 0]), sentence


class Annotated:
    """Training texts with the oracle's tags and spans, as arrays."""

    def __init__(self, corpus: TokenizedCorpus, oracle: Oracle, split: Split = "train"):
        self.ids = torch.from_numpy(np.asarray(corpus.ids(split)[:oracle.sample], dtype=np.int64))
        self.tags = torch.full(self.ids.shape, -100)
        self.spans: list[set[Span]] = []
        for i, (words, reading) in enumerate(readings(corpus, oracle, split)):
            self.tags[i, 1:len(words) + 1] = torch.tensor([INDEX[tag] for tag in reading.tags])
            self.tags[i, [0, len(words) + 1]] = INDEX[EDGE]
            self.spans.append(set(reading.spans))
        self.labels = sorted({label for spans in self.spans for _, _, label in spans})
        self.lengths = (self.tags != -100).sum(1) - 2

    def targets(self, rows: Tensor, labels: dict[str, int]) -> tuple[Tensor, ...]:
        """All spans of the rows: sentence, first, last position [N] and which labels each has [N, labels]."""
        sentence, first, last, truth = [], [], [], []
        for b, row in enumerate(rows.tolist()):
            n = int(self.lengths[row])
            i, j = torch.triu_indices(n, n)
            own = torch.zeros(n, n, len(labels))
            for start, end, label in self.spans[row]:
                if label in labels:
                    own[start, end, labels[label]] = 1.0
            sentence.append(torch.full_like(i, b))
            first.append(i + 1)
            last.append(j + 1)
            truth.append(own[i, j])
        return torch.cat(sentence), torch.cat(first), torch.cat(last), torch.cat(truth)


@torch.no_grad()
def trunk(model: DiffusionLM, process: Process, ids: Tensor, t: Tensor, generator: torch.Generator,
          guess: bool) -> Tensor:
    """[B, L, H] state of the denoiser on ids noised to times t; with `guess`, conditioned on its own
    first prediction."""
    x_t = process.corrupt(model, ids, t, generator)
    previous = model.predict(x_t, t).x0 if guess else None
    return model.hidden(x_t, t, previous)


def fit(model: DiffusionLM, process: Process, data: Annotated, seed: int = 0, steps: int = STEPS,
        heads: Heads | None = None) -> Heads:
    """Train heads (or go on with given ones) for `model` as it is, at times drawn evenly over
    the noise levels.

    Loss: cross-entropy of the tags plus binary cross-entropy of every span and label, summed over a text's
    spans and averaged over its words (most spans have no label). A pure function of the arguments.
    """
    generator = stream("control heads", seed)
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        heads = heads or Heads(model.params.hidden, data.labels)
    heads = heads.to(device).train().requires_grad_(True)
    optimizer = adamw(heads.named_parameters(), lr=RATE)
    training = model.training
    model.eval()
    with frozen_weights(model), torch.enable_grad():
        for step in range(steps):
            set_rate(optimizer, RATE * (1 - step / steps))
            rows = torch.randint(len(data.ids), (BATCH,), generator=generator)
            ids = data.ids[rows].to(device)
            t = draw_times(ids, process.levels, 0.0, generator)
            hidden = trunk(model, process, ids, t, generator,
                           model.params.self_conditioning and step % 2 == 0)
            truth = data.tags[rows].to(device).flatten()
            tags = F.cross_entropy(heads.log_tags(hidden).flatten(0, 1), truth, ignore_index=-100)
            sentence, first, last, truth = (value.to(device) for value in data.targets(rows, heads.labels))
            logits = heads.spans(hidden, sentence, first, last)
            spans = (F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
                     / data.lengths[rows].sum())
            optimizer.zero_grad(set_to_none=True)
            (tags + spans).backward()
            optimizer.step()
    model.train(training)
    return heads.eval().requires_grad_(False)
