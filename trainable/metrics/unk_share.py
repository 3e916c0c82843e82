"""How much of what is generated is no word."""

from __future__ import annotations

import math

import numpy as np

from trainable.corpora.base import UNKNOWN
from trainable.metrics.base import Measurable, Metric


class UnkShare(Metric):
    """Share of UNK among the words of generated sentences; bound it as `unk_share <= 2%`."""

    name, unit, direction = "unk_share", "", "minimize"
    along = "perplexity"
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`unk_share`, its `_se` over sentences (of a ratio of two sums, as for `perplexity`),
        and `unk_share_heldout`: that of all held-out text, where UNK stands for the words outside
        the vocabulary."""
        sentences = m.samples()
        unknown = np.array([words.count(UNKNOWN) for words in sentences], dtype=float)
        words = np.array([len(words) for words in sentences], dtype=float)
        total, n = max(1.0, float(words.sum())), len(sentences)
        share = float(unknown.sum()) / total
        error = math.sqrt(n / max(1, n - 1) * float(((unknown - share * words) ** 2).sum())) / total
        return {"unk_share": share, "unk_share_se": error, "unk_share_heldout": self._heldout(m)}

    def _heldout(self, m: Measurable) -> float:
        key = ("unk_share", "heldout", id(m.corpus))
        if key not in m.cache:  # the corpus is kept beside the value, so that its id is not given to another
            share = float((m.corpus.ids("valid") == m.corpus.UNK).sum()
                          / max(1, int(np.sum(m.corpus.lengths("valid")))))
            m.cache[key] = (share, m.corpus)
        return m.cache[key][0]
