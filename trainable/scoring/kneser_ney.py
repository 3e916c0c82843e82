"""An n-gram teacher: interpolated modified Kneser-Ney over a corpus's words. It counts once and learns
nothing, so it has no seed, and one text gives one teacher.

Chen and Goodman 1998, section 3; lower orders count contexts instead of texts, but for what begins with
START, which nothing precedes; the lowest order is interpolated with the even law over all that can be said
(Heafield et al. 2013, section 3, whose discounts for counts too few to estimate them are used as well).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from spaces.errors import UserError
from trainable.corpora.tokenized import END, PAD, START, UNK
from trainable.scoring.teacher import (
    FACTS,
    MEND,
    WEIGHTS,
    Teacher,
    fingerprint,
    heldout_rows,
    read_json,
    unknown_nats,
)

KIND = "kneser_ney"
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of counts 1, 2, 3 and more where they cannot be estimated."""


class Level(NamedTuple):
    """The n-grams of one order, sorted by key."""

    keys: np.ndarray
    """[G] int64: place of the first n - 1 words among the n-grams of the order below, times V, plus the last
    word."""
    counts: np.ndarray
    """[G] int64: how often the text has it; below the highest order, how many words stand before it."""


class KneserNey:
    """log p(word | the words before it), by counts."""

    def __init__(self, levels: Sequence[Level], words: int):
        """`words`: V, the marks included."""
        self.levels, self.words = list(levels), words
        self._parts = [self._discounted(level, self.levels[n - 1].keys if n else None)
                       for n, level in enumerate(self.levels)]

    @classmethod
    def count(cls, rows: np.ndarray, lengths: np.ndarray, words: int, order: int) -> KneserNey:
        """Of texts START words END: ids [N, L] with so many words each."""
        flat, place = _flat(rows, lengths)
        grams, occurs, levels = flat.copy(), np.arange(len(flat)), list[Level]()
        keys, suffixes = list[np.ndarray](), list[np.ndarray]()
        raw = list[np.ndarray]()
        begins = list[np.ndarray]()
        for n in range(1, order + 1):
            occurs = np.flatnonzero(place >= n - 1)
            own = flat[occurs] if n == 1 else grams[occurs - 1] * words + flat[occurs]
            unique, first, inverse, count = np.unique(own, return_index=True, return_inverse=True,
                                                      return_counts=True)
            if n > 1:
                suffixes.append(grams[occurs[first]])  # each n-gram without its first word
            keys.append(unique)
            raw.append(count)
            begins.append(place[occurs[first]] == n - 1)
            grams = np.full(len(flat), -1, dtype=np.int64)
            grams[occurs] = inverse.reshape(-1)
        for n in range(order):
            counts = raw[n]
            if n + 1 < order:
                before = np.bincount(suffixes[n], minlength=len(counts))
                counts = np.where(begins[n] & (flat[0] == START), raw[n], before)
            levels.append(Level(keys[n], counts.astype(np.int64)))
        levels[0].counts[levels[0].keys == START] = 0  # never an answer
        return cls(levels, words)

    def _discounted(self, level: Level,
                    below: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(discounted count [G], total of each context [C], what the discounts took from it [C])."""
        contexts = 1 if below is None else len(below)
        parent = np.zeros(len(level.keys), dtype=np.int64) if below is None else level.keys // self.words
        discount = np.array([0.0, *discounts(level.counts)])[np.minimum(level.counts, 3)]
        left = np.maximum(level.counts - discount, 0.0)
        total = np.bincount(parent, weights=level.counts, minlength=contexts)
        return left, total, total - np.bincount(parent, weights=left, minlength=contexts)

    def log_probs(self, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """[N] float64: log p of each text's words and END, behind START; ids [N, L] as `count` takes them."""
        flat, place = _flat(rows, lengths)
        asked = np.flatnonzero(place > 0)
        chance = np.full(len(flat), 1 / (self.words - 2))  # not START, not PAD
        grams = np.full(len(flat), -1, dtype=np.int64)
        for n, (level, (left, total, taken)) in enumerate(zip(self.levels, self._parts, strict=True)):
            before = np.concatenate([[-1], grams[:-1]]) if n else np.zeros(len(flat), dtype=np.int64)
            known = (before >= 0) & (place >= n)
            here = np.where(known, before, 0)
            found, at = _found(level.keys, here * self.words * (n > 0) + flat, known)
            sums = total[here]
            use = known & (sums > 0)
            share = np.where(found, left[at], 0.0)
            sums = np.where(use, sums, 1.0)
            chance = np.where(use, (share + taken[here] * chance) / sums, chance)
            grams = np.where(found, at, -1)
        text = np.repeat(np.arange(len(lengths)), np.asarray(lengths) + 2)
        return np.bincount(text[asked], weights=np.log(chance[asked]), minlength=len(lengths))


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """What is taken from a count of 1, of 2, of 3 and more (Chen and Goodman 1998, equation 26)."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in range(1, 5))
    if not (n1 and n2 and n3 and n4):
        return FALLBACK
    share = n1 / (n1 + 2 * n2)
    found = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
    legal = all(0 < value <= k for k, value in enumerate(found, 1))
    return found if legal else FALLBACK


def _flat(rows: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all texts one after another, START and END included, and the place of each in its text."""
    sizes = np.asarray(lengths) + 2
    inside = np.arange(rows.shape[1]) < sizes[:, None]
    place = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    return rows[inside].astype(np.int64), place[inside]


def _found(keys: np.ndarray, wanted: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(whether each key is there, where)."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return known & (keys[at] == wanted), at


def count_teacher(order: int, corpus: Any, out: Path, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Count a teacher in the training split of `corpus`, in words, and write it into the folder `out`;
    yields as `train_teacher` does. `seed`: of the held-out texts that the reported perplexity is of. Raises
    `UserError` where a split is empty."""
    begun, corpus = time.perf_counter(), corpus.words
    rows, lengths = corpus.ids("train"), np.asarray(corpus.lengths("train"))
    held, sizes = corpus.ids("valid"), np.asarray(corpus.lengths("valid"))
    if len(lengths) < 1 or len(sizes) < 2:
        raise UserError(f"teacher: the corpus has {len(lengths)} training and {len(sizes)} held-out "
                        "sentences; at least 1 and 2 are needed")
    yield {"progress": 0.0, "detail": f"counting up to {order} words of {len(lengths):,} texts"}
    model = KneserNey.count(rows, lengths, len(corpus.vocab), order)
    reporting = heldout_rows(len(sizes), seed)[1]
    charged = unknown_nats(corpus.vocab)
    nats = -model.log_probs(held[reporting], sizes[reporting]).sum()
    nats += charged * float((held[reporting] == UNK).sum())
    nll = nats / float((sizes[reporting] + 1).sum())
    facts = {"kind": KIND, "name": f"kneser-ney-{order}-words", "order": order,
             "vocabulary": fingerprint(corpus.vocab), "heldout_nll": nll, "heldout_perplexity": math.exp(nll),
             "heldout_sentences": len(reporting), "unknown_nats": charged,
             "ngrams": sum(len(level.keys) for level in model.levels), "seconds": time.perf_counter() - begun}
    out.mkdir(parents=True, exist_ok=True)
    parts = {f"{part}_{n}": getattr(level, part) for n, level in enumerate(model.levels, 1)
             for part in Level._fields}
    save_file(parts, out / WEIGHTS)
    (out / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    yield {"progress": 1.0, **facts}


class KneserNeyTeacher(Teacher):
    """A counted teacher, scoring as the others do."""

    def __init__(self, model: KneserNey, facts: dict[str, Any], corpus: Any):
        """`corpus`: in words."""
        self.counts, self.facts, self.corpus = model, facts, corpus
        self.limit = None
        self.charged = unknown_nats(corpus.vocab)

    @classmethod
    def open(cls, folder: Path, corpus: Any) -> KneserNeyTeacher:
        """What `count_teacher` wrote. Raises `UserError` naming a file that is missing or damaged,
        and where the vocabulary is another."""
        corpus, facts = corpus.words, read_json(folder / FACTS)
        if facts.get("vocabulary") != fingerprint(corpus.vocab):
            raise UserError(f"{folder / FACTS}: this teacher counted another vocabulary than the corpus has "
                            f"({len(corpus.vocab)} words); {MEND}")
        try:
            parts = load_file(folder / WEIGHTS)
            levels = [Level(parts[f"keys_{n}"], parts[f"counts_{n}"]) for n in range(1, facts["order"] + 1)]
        except (OSError, SafetensorError, KeyError) as error:
            reason = (str(error).splitlines() or ["?"])[0][:120]
            raise UserError(f"{folder / WEIGHTS}: cannot be read as the teacher's counts "
                            f"({reason}); {MEND}") from None
        return cls(KneserNey(levels, len(corpus.vocab)), facts, corpus)

    def nll(self, sentences: list[list[str]]) -> tuple[Tensor, Tensor]:
        """As `Teacher.nll`."""
        sizes = np.array([len(words) for words in sentences], dtype=np.int64)
        rows = np.full((len(sizes), int(sizes.max(initial=0)) + 2), PAD, dtype=np.int64)
        for row, words in zip(rows, sentences, strict=True):
            row[:len(words) + 2] = [START, *self.corpus.encode(list(words)), END]
        unknown = (rows == UNK).sum(1)
        sums = -self.counts.log_probs(rows, sizes) + self.charged * unknown
        return torch.from_numpy(sums), torch.from_numpy(sizes + 1)
