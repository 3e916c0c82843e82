"""An upper bound on the negative log-likelihood of held-out text."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainable.metrics.base import Measurable, Metric, heldout_rows, scaled
from trainable.quantization.sites import at_rest

BATCH, BATCHES = 64, 8
"""Sentences that share their times at most, and groups of such sentences at least: what the draw of times
does to the figure is told from how these differ."""


class NLLBound(Metric):
    """Variational bound on the negative log-likelihood of held-out sentences, nats per word with END counted.

    By times and noise that are the same in every trial. All positions, padding too, must be explained;
    the total is divided by the sentence's words + 1. It is a bound: comparable between models of one process,
    one embedding dimension and one corpus, never with an autoregressive model's perplexity. How it is
    made up: `likelihood` of the process. UNK is a word like any other here: its share is the same in every
    trial of a corpus.
    """

    name, unit, direction = "nll_bound", "nats/word", "minimize"
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`nll_bound`, its `_se` over sentences and draws of times (`standard_error`), and its parts, as the
        process names them. `nll_bound_process` says under which process it holds."""
        m.notes["nll_bound_process"] = m.process.name
        e = m.config.evaluation
        generator = m.generator("nll_bound")
        rows = heldout_rows(m.corpus, scaled(e.heldout, m.share), generator)
        ids = torch.from_numpy(m.corpus.ids("valid")[sorted(rows)].astype("int64")).to(m.device)
        words = torch.from_numpy(m.corpus.lengths("valid")[sorted(rows)].astype("int64")) + 1
        batches = ids.split(min(BATCH, math.ceil(len(ids) / BATCHES)))
        with at_rest(m.model):
            parts = sum_parts([m.process.bound(m.model, batch, e.times, generator) for batch in batches])
        total = functools.reduce(torch.add, parts.values())
        per_word = float(total.sum() / words.sum())
        error = standard_error(total.cpu(), words.cpu(), [len(batch) for batch in batches])
        return {"nll_bound": per_word, "nll_bound_se": error,
                **{f"nll_bound_{name}": float(value.sum() / words.sum()) for name, value in parts.items()}}


def standard_error(total: Tensor, words: Tensor, sizes: Sequence[int]) -> float:
    """Of the ratio sum of `total` [n] to sum of `words` [n], in its unit, for n sentences in batches of
    `sizes`, each with a draw of times of its own.

    Sentences of a batch share times, so what these are off by stays in the batch's sum: the spread of sums
    between batches holds it (the cluster-robust variance, with G / (G - 1) for G batches), that of single
    sentences does not. The larger of the two: few batches can differ less than their sentences by chance.
    """
    residuals = (total - total.sum() / words.sum() * words).double()
    alone = residuals.pow(2).sum()
    sums = torch.stack([part.sum() for part in residuals.split(list(sizes))])
    between = sums.pow(2).sum() * len(sums) / max(1, len(sums) - 1)
    return float(torch.maximum(alone, between).sqrt() / words.sum())


def sum_parts(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate the parts of several batches."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
