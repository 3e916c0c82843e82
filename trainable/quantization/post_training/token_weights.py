"""How much a calibration token counts in the second moment: one slot, H = sum_i c_i x_i x_i^T / sum_i c_i.

H does not depend on the scale of c (published forms differ: CGQ normalizes to mean 1), so weights here are
relative to those of a masked token of full confidence. A setting that gives every token the same weight then
gives 1 exactly, and with it the bits of unweighted GPTQ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from spaces.errors import UserError
from trainable.registry import Params


class Tokens(NamedTuple):
    """What is known of the tokens of a calibration state; [B, L] but for the prior. What a weight needs not
    may be None.

    With embedding diffusion, `masked` are the positions of rows in the upper half of the noise levels, or all
    of them, and confidence is the largest probability of the rounding softmax.
    """

    masked: Tensor
    confidence: Tensor | None = None
    """Largest probability that the full-precision model gives a token at the position."""
    attention: Tensor | None = None
    """Attention that the position receives (`attention_received`)."""
    prior: Tensor | None = None
    """[L] weights of positions (`position_prior`)."""


class TokenWeight(ABC):
    """A rule for the weights of calibration tokens."""

    name: ClassVar[str]
    Params: ClassVar[type[Params]] = Params
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of `Tokens` that it reads, beside `masked`."""
    probes: int = 0
    """Roll-outs of the full-precision model that its prior over positions comes from."""

    def __init__(self, params: BaseModel):
        self.params = params

    def prior(self, committed: Tensor, confidence: Tensor, masked: Tensor) -> Tensor:
        """[L] weights of positions from `probes` roll-outs; see `position_prior` for the arguments."""
        raise NotImplementedError(f"token weight {self.name!r} asks for no roll-outs")

    def weights(self, tokens: Tokens) -> Tensor:
        """Float64 [B, L], at least 0. Raises `UserError` where a field it needs is missing or does not
        fit."""
        shape = tuple(tokens.masked.shape)
        for field in self.needs:
            value = getattr(tokens, field)
            if value is None:
                raise UserError(f"token weight {self.name!r} needs the {field} of calibration tokens")
            expected = shape[-1:] if field == "prior" else shape
            if tuple(value.shape) != expected:
                raise ValueError(f"token weight {self.name!r}: {field} of shape {tuple(value.shape)}, "
                                 f"expected {expected}")
        return self._weights(tokens).double().expand(shape)

    @abstractmethod
    def _weights(self, tokens: Tokens) -> Tensor:
        """`weights` of tokens that hold what is needed."""


class UniformWeight(TokenWeight):
    """Every token counts the same: plain GPTQ."""

    name = "uniform"

    def _weights(self, tokens: Tokens) -> Tensor:
        return torch.ones(tokens.masked.shape, device=tokens.masked.device)


class CgqSurveyParams(Params):
    masked: float = Field(1.0, ge=0, le=4, description="omega of masked tokens")
    seen: float = Field(0.7, ge=0, le=4, description="omega of seen tokens")
    power: float = Field(0.5, ge=0, le=2, description="of the confidence that is added to omega")


class CgqSurvey(TokenWeight):
    """DLLMQuant's certainty-guided weights as a survey prints them: (omega + confidence^p)^2.

    The confidence in a token that the model sees says nothing; it counts as 1.
    """

    name = "cgq_survey"
    Params = CgqSurveyParams
    needs = ("confidence",)
    params: CgqSurveyParams

    def _weights(self, tokens: Tokens) -> Tensor:
        assert tokens.confidence is not None
        certainty = tokens.confidence.double().clamp(0, 1) ** self.params.power
        roots = torch.where(tokens.masked, self.params.masked + certainty, self.params.seen + 1.0)
        return (roots / (self.params.masked + 1.0)) ** 2


class CgqThirdPartyParams(Params):
    base: float = Field(
        0.5, gt=0, le=4, description="weight of a seen token, and of a masked one of no confidence")
    slope: float = Field(1.0, ge=0, le=4, description="added at full confidence")


class CgqThirdParty(TokenWeight):
    """DLLMQuant's certainty-guided weights as a published re-implementation has them: base + slope x
    confidence."""

    name = "cgq_thirdparty"
    Params = CgqThirdPartyParams
    needs = ("confidence",)
    params: CgqThirdPartyParams

    def _weights(self, tokens: Tokens) -> Tensor:
        assert tokens.confidence is not None
        certainty = torch.where(tokens.masked, tokens.confidence.double().clamp(0, 1), 0.0)
        return (self.params.base + self.params.slope * certainty) / (self.params.base + self.params.slope)


class FairParams(Params):
    probes: int = Field(512, ge=1, le=65536, description="roll-outs of the base; the paper's gain saturates "
                                                         "at 512 to 1024")
    frontier: float = Field(1.0, ge=0, le=100, description="weight of a commit")
    reliability: float = Field(
        1.0, ge=0, le=100, description="weight of the share of confidence while a position is masked")
    early: float = Field(
        1.0, ge=0, le=100, description="how much more a commit of the first step weighs than one of the last")
    floor: float = Field(0.05, gt=0, le=1, description="least weight, in units of the mean")


class FairWeight(TokenWeight):
    """FAIR-Calib's prior over positions: where full-precision roll-outs commit early and with confidence."""

    name = "fair"
    Params = FairParams
    needs = ("prior",)
    params: FairParams

    @property
    def probes(self) -> int:  # type: ignore[override]
        """As the parameter says."""
        return self.params.probes

    def prior(self, committed: Tensor, confidence: Tensor, masked: Tensor) -> Tensor:
        """See `position_prior`."""
        settings = self.params.model_dump(exclude={"probes"})
        return position_prior(committed, confidence, masked, **settings)

    def _weights(self, tokens: Tokens) -> Tensor:
        assert tokens.prior is not None
        prior = tokens.prior.double()
        if not (prior.min() >= 0 and prior.max() > 0):
            raise UserError("token weight 'fair': the prior of positions holds a negative number, NaN, "
                            "or nothing but zeros")
        return prior / prior.max()


class RsqParams(Params):
    least: float = Field(
        0.01, gt=0, le=1, description="importance r of the token that receives least attention")


class RsqWeight(TokenWeight):
    """RSQ's weights (arXiv 2503.01820): r^2, r linear in the attention that a token receives within its
    text."""

    name = "rsq"
    Params = RsqParams
    needs = ("attention",)
    params: RsqParams

    def _weights(self, tokens: Tokens) -> Tensor:
        assert tokens.attention is not None
        received = tokens.attention.double()
        low, high = received.amin(-1, keepdim=True), received.amax(-1, keepdim=True)
        share = torch.where(high > low, (received - low) / (high - low), 1.0)
        least = self.params.least
        return (share * (1 - least) + least) ** 2 if least < 1 else torch.ones_like(share)


def attention_received(probabilities: Tensor, query_weights: Tensor | None = None) -> Tensor:
    """Softmax outputs [B, heads, queries, keys] -> mean over heads and queries [B, keys], float64.

    `query_weights` [B, queries] count queries differently, such as those at positions that are decided.
    """
    attention = probabilities.double().mean(1)
    if query_weights is None:
        return attention.mean(1)
    weights = query_weights.double()
    return (attention * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


def position_prior(committed: Tensor, confidence: Tensor, masked: Tensor, frontier: float = 1.0,
                   reliability: float = 1.0, early: float = 1.0, floor: float = 0.05) -> Tensor:
    """FAIR-Calib's prior (arXiv 2606.06547, stage 1) from R roll-outs of T steps over L positions: float64
    [L], mean 1.

    w_i = sum of frontier(t) where i is committed at step t, plus `reliability` times the confidence of step
    t, divided by its sum over the masked positions, where i is masked. committed [R, L] int: the step, or -1
    for positions that were given; confidence and masked [R, T, L]: before step t. frontier(t) = frontier (1 +
    early (1 - t / (T - 1))), as the paper wants early commits to weigh more and does not print its form. No
    weight falls below `floor` times the mean.
    """
    rollouts, steps, length = masked.shape
    if committed.shape != (rollouts, length) or confidence.shape != masked.shape:
        raise ValueError(f"prior of {rollouts} roll-outs x {steps} steps x {length} positions: committed is "
                         f"{tuple(committed.shape)}, confidence {tuple(confidence.shape)}")
    left = 1 - committed.double().clamp(min=0) / max(1, steps - 1)
    hits = (frontier * (1 + early * left) * (committed >= 0)).sum(0)
    certainty = torch.where(masked, confidence.double(), 0.0)
    certainty = certainty / certainty.sum(-1, keepdim=True).clamp(min=1e-300)
    total = hits + reliability * certainty.sum((0, 1))
    mean = total.mean()
    if not mean > 0:
        raise UserError("prior of positions: no roll-out committed a token")
    total = (total / mean).clamp(min=floor)
    return total / total.mean()
