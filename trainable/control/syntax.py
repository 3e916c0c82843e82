"""What text shows about tags and spans, counted once: the controllers of `pos`, `spans` and `tree`
that need no training.

Given the denoiser's posterior over words, p(tag at i) = sum_v p(v at i) p(tag | v), and the probability
that words i..j make a phrase is the sum over the tag rows seen as such a phrase of their probability there,
each times how often that row, between the same neighbors, was one. Positions are taken as independent,
as the posterior gives them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainable.control.oracles.base import UPOS, Oracle, Reading
from trainable.control.oracles.brackets import reading_of
from trainable.corpora.base import Split
from trainable.corpora.tokenized import END, START, TokenizedCorpus
from trainable.models.prediction import log_sum, probabilities

EDGE = "EDGE"
"""The tag of START and END, so that a phrase's neighbor can be the sentence's edge."""
TAGS = (*UPOS, EDGE)
INDEX = {tag: i for i, tag in enumerate(TAGS)}
PATTERNS = 96
"""Tag rows kept per label and length, the most frequent."""
FLOOR = 1e-6
"""Least probability of a tag: keeps gradients finite where the posterior is sure of something else."""


def readings(corpus: TokenizedCorpus, oracle: Oracle,
             split: Split = "train") -> Iterable[tuple[list[int], Reading]]:
    """(word ids, reading) of the first `oracle.sample` rows of a split: the corpus's own annotation where
    the grammar is the oracle (the two agree), else the oracle's."""
    count = min(oracle.sample, len(corpus.lengths(split)))
    ids = corpus.ids(split)
    for start in range(0, count, 500):
        part = range(start, min(start + 500, count))
        for i, row in zip(part, corpus.rows(split, part), strict=True):
            words = corpus.decode(ids[i])
            gold = oracle.name == "grammar" and row.get("tree")
            yield corpus.word_ids(words), reading_of(row["tree"]) if gold else oracle.read(words)


@dataclass
class Syntax:
    """Counts over tagged text."""

    tag_given_word: Tensor
    """[V, len(TAGS)] rows sum to 1, but for PAD and words never seen (even over `UPOS`)."""
    phrases: dict[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    """(label, words) -> tag rows [K, words + 2] with both neighbors, and the log share of their sightings
    [K] that were such a phrase."""
    often: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """The log share [K] that each of these rows has among them, as often as text showed them."""

    @classmethod
    def count(cls, corpus: TokenizedCorpus, oracle: Oracle, phrases: bool = True,
              read: Iterable[tuple[list[int], Reading]] | None = None) -> Syntax:
        """From the training split of a `TokenizedCorpus`; without `phrases` the tags alone. `read`: its
        `readings`, where they are there already."""
        tags = torch.zeros(len(corpus.vocab), len(TAGS))
        windows: Counter[tuple[int, ...]] = Counter()
        seen: defaultdict[tuple[str, int], Counter[tuple[int, ...]]] = defaultdict(Counter)
        rowed: list[tuple[int, ...]] = []
        for ids, reading in readings(corpus, oracle) if read is None else read:
            own = [INDEX[tag] for tag in reading.tags]
            tags.index_put_((torch.tensor(ids), torch.tensor(own)), torch.ones(len(ids)), accumulate=True)
            if not phrases:
                continue
            edged = (INDEX[EDGE], *own, INDEX[EDGE])
            rowed.append(edged)
            for first, last, label in set(reading.spans):
                seen[label, last - first + 1][edged[first:last + 3]] += 1
        wanted = {size for _, size in seen}
        kept = {key: counts.most_common(PATTERNS) for key, counts in seen.items()}
        asked = {row for rows_ in kept.values() for row, _ in rows_}
        for edged in rowed:
            for size in wanted:
                for start in range(len(edged) - size - 1):
                    window = edged[start:start + size + 2]
                    if window in asked:
                        windows[window] += 1
        tables = {key: (torch.tensor([row for row, _ in rows_]),
                        torch.tensor([n / windows[row] for row, n in rows_]).log())
                  for key, rows_ in kept.items()}
        often = {key: _log_shares([n for _, n in rows_]) for key, rows_ in kept.items()}
        return cls(_normalized(tags), tables, often)

    @classmethod
    def of_tags(cls, table: dict[str, dict[str, float]], vocab: Sequence[str]) -> Syntax:
        """From an exported model's table: word -> tag -> share. Has no phrases."""
        tags = torch.zeros(len(vocab), len(TAGS))
        for i, word in enumerate(vocab):
            for tag, share in table.get(word, {}).items():
                tags[i, INDEX[tag]] = share
        return cls(_normalized(tags))

    def log_tags(self, log_probs: Tensor) -> Tensor:
        """[B, L, V] log-posterior over words -> [B, L, len(TAGS)] over tags. PAD has none."""
        return self.log_tags_of(probabilities(log_probs))

    def log_tags_of(self, probs: Tensor) -> Tensor:
        """The same of probabilities."""
        return (probs @ self.tag_given_word.to(probs)).clamp(min=FLOOR).log()

    def explained(self, rows: Tensor, first: int, spans: Iterable[tuple[int, int, str]]) -> Tensor:
        """[K] log-share of sightings in which the windows of tag rows [K, n + 2] (left neighbor
        of word `first` first) were the phrases that `spans` ask for there; `FLOOR` for each that
        text never showed."""
        total = torch.zeros(len(rows))
        for start, last, label in spans:
            tags, share = self.phrases.get((label, last - start + 1),
                                           (torch.zeros(0, 0, dtype=torch.long), torch.zeros(0)))
            seen = {tuple(row): float(weight) for row, weight in zip(tags.tolist(), share, strict=True)}
            windows = rows[:, start - first:last - first + 3].tolist()
            total += torch.tensor([max(seen.get(tuple(window), math.log(FLOOR)), math.log(FLOOR))
                                   for window in windows])
        return total

    def rows(self, label: str, words: int) -> tuple[Tensor, Tensor]:
        """Tag rows [K, words + 2] of such phrases, both neighbors with them, and the log [K] of how often
        each was one: its share of the phrase's sightings, times the share of the row's own sightings that
        were such a phrase."""
        tags, share = self.phrases[label, words]
        return tags, share + self.often[label, words]

    def known(self, label: str, words: int) -> bool:
        """Whether text showed such a phrase."""
        return (label, words) in self.phrases


def tag_weights(share: Tensor, tags: Tensor) -> Tensor:
    """[n] tags -> [n, V] log of how often each word carries the tag, from shares [V, len(TAGS)].
    Finite everywhere."""
    return share.T[tags].clamp(min=FLOOR).log()


def _log_shares(counts: Sequence[int]) -> Tensor:
    numbers = torch.tensor(counts, dtype=torch.float32)
    return (numbers / numbers.sum()).log()


def _normalized(counts: Tensor) -> Tensor:
    """Rows to sum 1. A word that was never seen may have any tag; START and END are edges, PAD is nothing."""
    unseen = counts.sum(1) == 0
    counts[unseen, :len(UPOS)] = 1.0
    counts[:4] = torch.where(unseen[:4, None], torch.zeros(len(TAGS)), counts[:4])
    counts[[START, END]] = 0.0
    counts[[START, END], INDEX[EDGE]] = 1.0
    return counts / counts.sum(1, keepdim=True).clamp(min=1e-12)


class PhraseBatch:
    """The phrases that a batch of targets asks for, laid out so that one gather scores them all."""

    def __init__(self, syntax: Syntax, phrases: Sequence[Sequence[tuple[int, int, str]]],
                 device: torch.device):
        """`phrases`: for each sentence its spans; those that text never showed are left out."""
        asked = [(b, first, *syntax.phrases[label, last - first + 1]) for b, spans in enumerate(phrases)
                 for first, last, label in spans if syntax.known(label, last - first + 1)]
        self.count = len(asked)
        self.sentences = torch.tensor([each[0] for each in asked], dtype=torch.long, device=device)
        if not asked:
            return
        most = max(len(tags) for *_, tags, _ in asked)
        widest = max(tags.shape[1] for *_, tags, _ in asked)
        rows = torch.full((self.count, most, widest), -1)
        weights = torch.full((self.count, most), -torch.inf)
        for i, (_, _, tags, share) in enumerate(asked):
            rows[i, :len(tags), :tags.shape[1]] = tags
            weights[i, :len(tags)] = share
        self.rows, self.weights = rows.to(device), weights.to(device)
        # Word 0 stands at position 1, behind START; the left neighbor of word `first` is at position `first`.
        first = torch.tensor([each[1] for each in asked], device=device)
        self.positions = (first[:, None] + torch.arange(widest, device=device))[:, None]
        self.used = (self.rows >= 0).float()
        self._flat: tuple[torch.Size, Tensor] | None = None

    def log_prob(self, log_tags: Tensor) -> Tensor:
        """[phrases] log-probability of each, from [B, L, len(TAGS)]. `sentences` says whose each is."""
        if self._flat is None or self._flat[0] != log_tags.shape:  # guidance comes back with the same
            self._flat = log_tags.shape, self._places(*log_tags.shape[1:])
        tags = log_tags.reshape(-1).index_select(0, self._flat[1]).view(self.used.shape)
        return log_sum((tags * self.used).sum(2) + self.weights)

    def _places(self, length: int, tags: int) -> Tensor:
        """Of each tag of each row, where its log-probability stands among all of [B, length, tags]."""
        positions = self.positions.clamp(max=length - 1)
        return ((self.sentences[:, None, None] * length + positions) * tags
                + self.rows.clamp(min=0)).flatten()
