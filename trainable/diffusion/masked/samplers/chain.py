"""Words of one pass that fit each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from trainable.diffusion.masked.chains import STEEPEST, Chains
from trainable.diffusion.masked.couplings import MOST, Couplings
from trainable.diffusion.masked.proposing import Proposals, outside
from trainable.diffusion.masked.samplers.adaptive import EntropyBound
from trainable.diffusion.masked.samplers.base import Answer, Ends, ends_field

COLDEST = MOST / STEEPEST
"""Rows are drawn no colder: 0.125."""


class Chain(EntropyBound):
    """Tokens of one pass are drawn jointly, by the posteriors and by how much likelier neighbors are together
    than apart, of which the model is asked once; positions as under `entropy_bound`, by the joint law."""

    # Others fill several positions in a pass as if they were independent, and write "the an". Discrete copula
    # diffusion (arXiv 2410.01949) takes the dependence from a second model; here it is the same one
    # (`Couplings`), so that an exported model needs no more than itself. As there is no second opinion on
    # marginals, they are multiplied, not projected: the law gets sharper than the model's.

    name = "chain"
    asks = True

    class Params(EntropyBound.Params):
        """Where it looks, and how far."""

        ends: Ends = ends_field("joined")
        bound: float = Field(0.1, ge=0, description="nats of the joint law's entropies; 0: even steps")
        candidates: int = Field(24, ge=2, le=4096,
                                description="likeliest tokens of each position that are drawn from")
        reach: int = Field(1, ge=1, le=64, description="a masked position is joined to the next one that is "
                                                       "masked, if it is at most so far away")

    params: Params

    def __init__(self, params: Params):
        super().__init__(params)
        self._couplings: Couplings | None = None

    def propose(self, answer: Answer) -> Proposals:
        """Tokens of the N positions; entropies and probabilities are of the joint law without temperature."""
        warm = max(answer.temperature, COLDEST)
        found = self._candidates(answer, warm)
        gaps = found.position.diff(dim=1) * found.there[:, 1:]
        pair = self._known(answer).between(found.tokens[:, :-1], found.tokens[:, 1:], gaps)
        u = torch.zeros(found.there.shape, dtype=torch.float64, device=pair.device)
        u[found.there] = answer.random
        drawn = Chains(found.warm, pair / warm).draw(u)[..., None]
        law = Chains(found.own, pair).marginals()
        return Proposals(found.tokens.gather(2, drawn)[..., 0][found.there],
                         -torch.special.entr(law).sum(2)[found.there],
                         law.gather(2, drawn)[..., 0][found.there])

    def _candidates(self, answer: Answer, warm: float) -> _Candidates:
        at, log_probs = answer.at, answer.log_probs
        top = log_probs.topk(min(self.params.candidates, log_probs.shape[1]), dim=1)
        words, order = top.indices.sort(1)  # so that it does not matter which of two alike came first
        likely = top.values.gather(1, order)
        tempered = likely / warm
        if self.params.top_p < 1:
            far = outside((log_probs.double() / warm).softmax(1), self.params.top_p)
            tempered = tempered.masked_fill(far.gather(1, words), -torch.inf)
        count = at.sum(1)
        most = int(count.max())
        there = torch.arange(most, device=at.device) < count[:, None]
        # Behind the last masked position of a row: one candidate, coupled to nothing.
        nothing = likely.new_full((*there.shape, likely.shape[1]), -torch.inf)
        nothing[..., 0] = 0
        tokens = words.new_zeros(nothing.shape)
        own, warmed = nothing, nothing.clone()
        tokens[there], own[there], warmed[there] = words, likely, tempered
        return _Candidates(tokens, own, warmed, (~at).int().argsort(dim=1, stable=True)[:, :most], there)

    def _known(self, answer: Answer) -> Couplings:
        if self._couplings is None or not torch.equal(self._couplings.blank, answer.blank):
            self._couplings = Couplings(answer.ask, answer.blank, self.params.reach)
        return self._couplings


class _Candidates(NamedTuple):
    """Masked positions of B rows, moved to the left: m of the row that has most."""

    tokens: Tensor
    """[B, m, k]."""
    own: Tensor
    """[B, m, k] log-posterior of each."""
    warm: Tensor
    """[B, m, k] the same with temperature and nucleus."""
    position: Tensor
    """[B, m] where in the row."""
    there: Tensor
    """[B, m] bool: not behind the last."""
