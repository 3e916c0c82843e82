"""What words say about each other, by the model itself: how much likelier two of them are beside each other
than apart, all else masked.

A model that is shown one word in a row of MASKs says of the other places what stands there then; held against
what it says of a row of which nothing is known, that is their pointwise mutual information. It needs no
corpus, lies in no file, and is that of the weights as they are, quantized ones too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainable.models.prediction import probabilities

PLACES = 4
"""Positions of a row at which a word is shown; what is said at each is pooled."""
MOST = 10.0
"""Nats: two words are at most e^10 times likelier, or unlikelier, together. No row is impossible."""
SMOOTHING = 1e-06
"""Chance that is added to every word's: what a model says of words that it never expects is noise."""
ASKED = 256
"""Rows of a pass."""


class Couplings:
    """Of one state of a model's weights. Each word is asked about when it first comes up."""

    def __init__(self, ask: Callable[[Tensor], Tensor], blank: Tensor, reach: int):
        """`ask`: rows [n, L] -> log-posteriors [n, L, V]; `blank` [L]: a row of which nothing is known;
        `reach`: the largest distance, as far as rows are long enough."""
        last = len(blank) - 1
        self.ask, self.blank, self.reach = ask, blank, max(0, min(reach, last - 1))
        inner = torch.linspace(1, max(1, last - self.reach), PLACES + 2, device=blank.device)
        self.places = inner.round().long()[1:-1].unique()
        self.alone = ask(blank[None])[0]
        """[L, V] log-posteriors of the blank row."""
        self.row = torch.full((self.alone.shape[1],), -1, device=blank.device)
        """[V] where a word stands in `known`; -1: not asked about."""
        self.known = self.alone.new_zeros(0, self.reach, self.alone.shape[1])
        """[words, reach, V]."""

    def between(self, left: Tensor, right: Tensor, distance: Tensor) -> Tensor:
        """log p(v, w) / p(v) p(w) [..., k, k] of tokens v of `left` and w of `right` [..., k], which stand
        `distance` [...] apart; 0 where that is 0 or beyond reach."""
        near = (distance > 0) & (distance <= self.reach)
        found = self.alone.new_zeros(*left.shape, right.shape[-1])
        if near.any():
            first, second, apart = left[near], right[near], distance[near] - 1
            self._learn(first.unique())
            found[near] = self.known[self.row[first][..., None], apart[:, None, None], second[:, None]]
        return found

    def _learn(self, words: Tensor) -> None:
        new = words[self.row[words] < 0]
        if len(new):
            self.row[new] = torch.arange(len(new), device=new.device) + len(self.known)
            self.known = torch.cat([self.known, *map(self._told, new.split(ASKED // PLACES))])

    def _told(self, words: Tensor) -> Tensor:
        """[n, reach, V] for words [n]."""
        each = torch.arange(len(self.places), device=words.device)
        rows = self.blank.repeat(len(words), len(each), 1)
        rows[:, each, self.places] = words[:, None]
        said = self.ask(rows.flatten(0, 1)).unflatten(0, (len(words), len(each)))
        behind = self.places[:, None] + torch.arange(1, self.reach + 1, device=words.device)
        own = self.alone[self.places][:, words].T[..., None, None]  # [n, places, 1, 1]
        # Where a word cannot stand, nothing is said of what were behind it.
        together = (own + _smooth(said[:, each[:, None], behind])).masked_fill(own == -torch.inf, -torch.inf)
        found = together.logsumexp(1) - (own + _smooth(self.alone[behind])).logsumexp(1)
        return found.nan_to_num(0.0, MOST, -MOST).clamp(-MOST, MOST)


def _smooth(log_probs: Tensor) -> Tensor:
    """With as much more chance for everything."""
    return probabilities(log_probs).add_(SMOOTHING).log_()
