"""Does the model repeat itself, or the training text?

A low perplexity is cheap to reach by writing one good sentence again and again, or by reciting.
Both show here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainable.corpora.base import UNKNOWN
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.base import Measurable, Metric, heldout_rows, heldout_words


def distinct_n(sentences: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams of all sentences (Li et al., arXiv 1510.03055); 0 where
    there is no n-gram.

    An n-gram that holds UNK is none of the distinct ones: what it stands for is not known.
    """
    grams = [tuple(words[i:i + n]) for words in sentences for i in range(len(words) - n + 1)]
    return sum(UNKNOWN not in gram for gram in set(grams)) / len(grams) if grams else 0.0


def row_hashes(ids: np.ndarray) -> frozenset[int]:
    """64-bit hashes of the rows of [N, L] word ids. They hold within one process."""
    return frozenset(hash(row.tobytes()) for row in np.ascontiguousarray(ids, dtype=np.int32))


def as_row(words: Sequence[str], corpus: TokenizedCorpus, length: int) -> np.ndarray:
    """[length] ids START words END PAD..., as the corpus stores a sentence; cut where the
    words do not fit."""
    row = np.full(length, corpus.PAD, dtype=np.int32)
    ids = [corpus.START, *corpus.encode(list(words)), corpus.END][:length]
    row[:len(ids)] = ids
    return row


class Diversity(Metric):
    """distinct-2 of the generated sentences: the share of their word pairs that are different ones.

    distinct-1 mostly counts the vocabulary and distinct-4 is near 1 for anything but repetition, so 2 is
    the order that tells models apart. It falls as more sentences are taken: compare it at one rung, or with
    `diversity_heldout`, which is that of as many real sentences.
    """

    name, unit, direction = "diversity", "", "maximize"
    along = "perplexity"
    ideal = 1.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """distinct-2, -1, -4; share of distinct sentences; share copied from training;
        distinct-2 of real text."""
        sentences = m.samples()
        rows = heldout_rows(m.corpus, len(sentences), m.generator("diversity/heldout"))
        known, length = self._training_rows(m), m.corpus.ids("train").shape[1]
        copies = sum(hash(as_row(words, m.corpus, length).tobytes()) in known for words in sentences)
        return {
            "diversity": distinct_n(sentences, 2),
            "diversity_distinct1": distinct_n(sentences, 1),
            "diversity_distinct4": distinct_n(sentences, 4),
            "diversity_sentences": len({tuple(words) for words in sentences}) / len(sentences),
            "diversity_copied": copies / len(sentences),
            "diversity_heldout": distinct_n(heldout_words(m.corpus, rows), 2),
        }

    def _training_rows(self, m: Measurable) -> frozenset[int]:
        key = ("diversity", "training rows", id(m.corpus))
        if key not in m.cache:  # the corpus is kept beside the hashes, so that its id is not given to another
            m.cache[key] = (row_hashes(m.corpus.ids("train")), m.corpus)
        return m.cache[key][0]
