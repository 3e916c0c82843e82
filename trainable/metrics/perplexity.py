"""lm-score: how likely a fixed language model finds what was generated."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from trainable.metrics.base import Measurable, Metric, heldout_rows, heldout_words

HELDOUT = 256  # real sentences scored when the teacher does not say what it gives to real text


def pooled_perplexity(sums: Tensor | np.ndarray, counts: Tensor | np.ndarray) -> tuple[float, float]:
    """exp(total nats / total tokens) over sentences, and its standard error.

    The mean per token is a ratio of two sums over sentences, so its variance comes from the delta method
    with sentences as the independent units: var = n / (n - 1) * sum (s_i - r c_i)^2 / (sum c)^2; times
    the perplexity for the exponential.
    """
    sums, counts = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if len(sums) < 2:
        raise ValueError(f"{len(sums)} sentences: perplexity and its error need at least 2")
    mean, n = sums.sum() / counts.sum(), len(sums)
    variance = n / (n - 1) * ((sums - mean * counts) ** 2).sum() / counts.sum() ** 2
    perplexity = math.exp(mean)
    return perplexity, perplexity * math.sqrt(variance)


class Perplexity(Metric):
    """lm-score: perplexity of generated sentences under the teacher, per token with the sentence end counted.

    A UNK costs log V nats more than the teacher's UNK (`trainable.scoring.teacher`), in real text too;
    `unk_share` tells how many there are.
    """

    name, unit, direction = "perplexity", "", "minimize"
    ideal = 1.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`perplexity`, `perplexity_se`, and `perplexity_heldout`: the same of real held-out
        text, for scale."""
        value, error = pooled_perplexity(*m.teacher.nll(m.samples()))
        m.notes["perplexity_teacher"] = m.teacher.name
        return {"perplexity": value, "perplexity_se": error, "perplexity_heldout": self._heldout(m)}

    def _heldout(self, m: Measurable) -> float:
        known = m.teacher.facts.get("heldout_perplexity")
        if known is not None and m.teacher.facts.get("unknown_nats") == m.teacher.charged:
            return float(known)  # by the same rule: older teachers recorded it without the charge
        key = ("perplexity", "heldout", id(m.teacher), id(m.corpus))
        # the objects are kept beside the value, so that their ids are not given to others
        if key not in m.cache:
            rows = heldout_rows(m.corpus, HELDOUT, m.generator("perplexity/heldout"))
            value, _ = pooled_perplexity(*m.teacher.nll(heldout_words(m.corpus, rows)))
            m.cache[key] = (value, m.teacher, m.corpus)
        return m.cache[key][0]
