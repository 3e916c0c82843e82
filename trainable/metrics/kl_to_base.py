"""How far a model's beliefs are from those of its base, in the same states: what ranks quantizers that texts
cannot."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainable.artifacts.artifact import load
from trainable.diffusion.process import Process
from trainable.diffusion.states import States, corrupted, joined, rows_at_once, spread
from trainable.metrics.base import Measurable, Metric, heldout_rows, scaled
from trainable.models.backbone import Backbone
from trainable.models.placement import Streamed, offloads
from trainable.quantization.post_training.divergence import token_kl
from trainable.quantization.sites import at_rest

BATCH = 64
LEVELS = 8
"""Noise levels that held-out texts are spread over."""


class Divergence(NamedTuple):
    """Sums over the corrupted positions of each text, float64 [N]."""

    kl: Tensor
    """Nats."""
    flips: Tensor
    """Positions at which the most probable words differ."""
    positions: Tensor

    def values(self) -> dict[str, float]:
        """`kl`, its standard error over texts (of a ratio of two sums), and the share of `flips`. NaN
        without positions."""
        total = self.positions.sum()
        mean = self.kl.sum() / total
        error = (self.kl - mean * self.positions).square().sum().sqrt() / total
        return {"kl": float(mean), "se": float(error), "flips": float(self.flips.sum() / total)}


@torch.no_grad()
def divergence(base: Backbone, model: Backbone, states: States) -> Divergence:
    """KL(base || model) of the words at corrupted positions of `states`, both models in eval mode."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in states.split(rows_at_once(base, states, BATCH)):
        ours, theirs = (
            each.predict(batch.state, batch.t, batch.previous).log_probs for each in (model, base)
        )
        kl = torch.where(batch.corrupted, token_kl(theirs, ours), 0.0)
        differ = (ours.argmax(-1) != theirs.argmax(-1)) & batch.corrupted
        found.append((kl.sum(1), differ.sum(1).double(), batch.corrupted.sum(1).double()))
    return Divergence(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


def measured_states(base: Backbone, process: Process, ids: Tensor, generator: torch.Generator) -> States:
    """Held-out texts [N, L] with the base's latents, at `LEVELS` noise levels in turn."""
    times = spread(len(ids), LEVELS, process).to(ids.device)
    parts = [
        corrupted(base, process, some, t, generator)
        for some, t in zip(ids.split(BATCH), times.split(BATCH), strict=True)
    ]
    return joined(parts)


def base_of(m: Measurable) -> Backbone | None:
    """The full-precision model that trials start from; None where it is not known. Where it would not fit
    beside the rounded one, one block of it is on the device at a time."""
    place = m.base_artifact or m.facts.get("base")
    if place is None:
        return None
    key = ("kl_to_base", "base")
    if m.cache.get(key, (None,))[0] != str(place):
        m.cache[key] = (str(place), _shown(load(place, run_codes=False).model, m))
    found: Backbone = m.cache[key][1]
    return found


def _shown(base: Backbone, m: Measurable) -> Backbone:
    if not m.config.calibration.active or not offloads(m.config.calibration.offload, base, m.device):
        return base.to(m.device)
    Streamed(base, m.device).settle()
    return base


class KLToBase(Metric):
    """KL divergence of the model's words from the base's, at corrupted positions of held-out text, nats a
    position.

    KL(base || model) in states that both are shown: masked text, or noisy latents of the base, at 8 noise
    levels, by noise
    that is the same in every trial. Much sharper than perplexity, and 0 for the base itself.
    """

    name, unit, direction = "kl_to_base", "nats", "minimize"
    ideal = 0.0
    asked = True

    def measure(self, m: Measurable) -> dict[str, float]:
        """`kl_to_base`, its `_se` over texts, `_flips`: share of positions whose most probable word is
        another. Nothing
        where the base is not known."""
        base = base_of(m)
        if base is None:
            return {}
        generator = m.generator("kl_to_base")
        rows = heldout_rows(m.corpus, scaled(m.config.evaluation.heldout, m.share), generator)
        ids = torch.from_numpy(m.corpus.ids("valid")[sorted(rows)].astype("int64")).to(m.device)
        with at_rest(m.model):
            found = divergence(base, m.model, measured_states(base, m.process, ids, generator)).values()
        return {"kl_to_base": found["kl"], "kl_to_base_se": found["se"], "kl_to_base_flips": found["flips"]}
