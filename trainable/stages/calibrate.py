"""Post-training quantization of a model: calibration states, statistics block by block, rounding, what is
then packed.

Blocks are rounded in the order in which the model runs them, each on inputs that come from blocks already
rounded, and
only the statistics of one block are held at a time. Every block costs a pass over the states up to that
block.
"""

from __future__ import annotations

import time
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spaces.config import CalibrationConfig, TrialConfig
from spaces.errors import UserError
from trainable.artifacts.packed import Packed
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.process import Process
from trainable.diffusion.states import States, corrupted, joined, spread, visited
from trainable.models.backbone import Backbone
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.statistics import Calibration
from trainable.quantization.post_training.stored import Stored, chain_of, put, stored
from trainable.quantization.post_training.token_weights import Tokens
from trainable.registry import TOKEN_WEIGHTS
from trainable.seeds import stream

BATCH = 32
ROLLOUT_STATES = 3
"""Calibration states taken from one generation, on average."""
QUOTAS = (0.3, 0.2, 0.2, 0.3)
"""Shares of the states by quarter of the noise level (DLLMQuant's TMAS, arXiv 2508.14090)."""


class Calibrated(NamedTuple):
    """What is written for each rounded weight, and numbers worth a column."""

    weights: dict[str, Stored]
    facts: dict[str, float]


class _Enough(Exception):  # noqa: N818 - no error
    """Every Linear of a block has been fed: the rest of the pass is of no use."""


def rounded(
    packed: Packed, process: Process, corpus: TokenizedCorpus, share: float, device: torch.device
) -> tuple[Packed, dict[str, float]]:
    """A packed model with its Linears rounded as its config says, on `share` of the calibration states.

    Raises `UserError`: too few texts, a site without a layer, statistics that a method cannot work with.
    """
    model = packed.run(device).float()  # statistics and rounding are done in float32
    states = calibration_states(model, process, corpus, packed.config, share)
    done = calibrate(model, states, packed.config.calibration)
    return packed.rounded(done.weights), done.facts


def calibration_states(
    model: Backbone, process: Process, corpus: TokenizedCorpus, config: TrialConfig, share: float = 1.0
) -> States:
    """States of training texts, or of the model's own generations; held-out text is never among them."""
    calibration, seed = config.calibration, config.calibration_seed
    device = next(model.parameters()).device
    count = max(1, round(calibration.texts * share))
    noise = stream("calibration", "noise", seed, device=device)
    if calibration.source.startswith("rollout"):
        generations = -(-count // ROLLOUT_STATES)
        seen = visited(
            model,
            process,
            process.sampling(model, config.sampling),
            generations,
            config.corpus.max_length,
            noise,
        )
        return seen.rows(
            chosen(
                seen.level.cpu(),
                count,
                calibration.source == "rollout_quota",
                stream("calibration", "choice", seed),
            ).to(device)
        )
    ids = torch.from_numpy(
        np.asarray(corpus.ids("train")[text_rows(corpus, calibration.texts, seed)[:count]], dtype=np.int64)
    ).to(device)
    times = (
        torch.zeros(count, dtype=torch.long)
        if calibration.source == "clean"
        else spread(count, calibration.levels, process)
    )
    return joined(
        [
            corrupted(model, process, some, t, noise)
            for some, t in zip(ids.split(BATCH), times.to(device).split(BATCH), strict=True)
        ]
    )


def text_rows(corpus: TokenizedCorpus, count: int, seed: int) -> list[int]:
    """`count` distinct training texts; fewer asked for are the first of them. Raises `UserError` where there
    are too few."""
    there = len(corpus.ids("train"))
    if count > there:
        raise UserError(f"calibration.texts: {count} asked for, the training text has {there}")
    return torch.randperm(there, generator=stream("calibration", "texts", seed))[:count].tolist()


def chosen(levels: Tensor, count: int, quotas: bool, generator: torch.Generator) -> Tensor:
    """Row numbers of `count` states out of those at `levels` [N]: all alike, or by `QUOTAS`. Int64,
    increasing.

    A quarter with fewer states than its quota gives all that it has; the others make up for it.
    """
    order = torch.randperm(len(levels), generator=generator)
    if not quotas:
        return order[:count].sort().values
    quarter = (levels[order] * len(QUOTAS)).long().clamp(0, len(QUOTAS) - 1)
    taken = torch.zeros(len(order), dtype=torch.bool)
    for number, share in enumerate(QUOTAS):
        taken[(quarter == number).nonzero()[: round(share * count), 0]] = True
    taken[(~taken).nonzero()[: max(0, count - int(taken.sum())), 0]] = True
    return order[taken][:count].sort().values


@torch.no_grad()
def calibrate(model: Backbone, states: States, calibration: CalibrationConfig) -> Calibrated:
    """Round the Linears of the configured sites, in place of the layers of `model` (in eval mode).

    The arrays that the model's weights shared with others are left as they were.
    """
    began = time.perf_counter()
    chain = chain_of(calibration.method, calibration.transforms)
    batches = states.split(BATCH)
    weights = _token_weights(model, batches, calibration)
    found: dict[str, Stored] = {}
    reports: list[dict[str, float]] = []
    for block in blocks(model, batches[0], calibration):
        statistics = Calibration(chain.needs)
        if chain.needs:
            _collect(model, block, batches, weights, statistics)
        for name in block:
            weight = model.get_parameter(f"{name}.weight")
            done = quantize(chain, weight, statistics.merged(name) if chain.needs else None)
            statistics.drop(name)
            found[f"{name}.weight"] = stored(calibration, done)
            reports.append(done.encoded.report)
            put(model, name, done, calibration.activation_bits)
    facts = {"calibration_states": float(len(states.t)), "calibration_seconds": time.perf_counter() - began}
    for key in ("damping_retries", "dead_inputs"):
        if any(key in report for report in reports):
            facts[f"calibration_{key}"] = sum(report.get(key, 0.0) for report in reports)
    return Calibrated(found, facts)


def blocks(model: Backbone, batch: States, calibration: CalibrationConfig) -> list[list[str]]:
    """Names of the Linears of the configured sites, block by block as the model runs them.

    A block is what shares a numbered module (`body.layer.0`). Raises `UserError` for a weight that the model
    does not use
    as a layer.
    """
    asked = {name: site for site in calibration.sites for name in model.sites()[site]}
    order: list[str] = []
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name in asked
    ]
    try:
        model.predict(batch.state[:1], batch.t[:1], None if batch.previous is None else batch.previous[:1])
    finally:
        for handle in handles:
            handle.remove()
    order = list(dict.fromkeys(order))
    unused = [
        name for name in asked if name not in order or not isinstance(model.get_submodule(name), nn.Linear)
    ]
    if unused or not order:
        what = f"holds {unused[0]}, which is not run as a layer" if unused else "hold no layer"
        raise UserError(
            f"calibration.sites: {asked[unused[0]] if unused else ', '.join(calibration.sites)} {what}; "
            f"leave it out"
        )
    return [list(names) for _, names in groupby(order, _block)]


def _block(name: str) -> str:
    """`body.layer.0.attention.self.query` -> `body.layer.0`; a name without a number is a block of its
    own."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: number + 1])


def _collect(
    model: Backbone,
    block: list[str],
    batches: list[States],
    weights: list[Tensor | None],
    statistics: Calibration,
) -> None:
    """Feed all states to the model, as far as this block, and count the inputs of its Linears."""
    left: set[str] = set()
    current: list[Tensor | None] = [None]

    def count(_: nn.Module, args: tuple[Tensor, ...], name: str) -> None:
        x, weight = args[0], current[0]
        statistics.add(
            name, x, weights=weight if weight is not None and weight.shape == x.shape[:-1] else None
        )
        left.discard(name)
        if not left:
            raise _Enough

    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: count(module, args, name)
        )
        for name in block
    ]
    try:
        for batch, weight in zip(batches, weights, strict=True):
            left.update(block)
            current[0] = weight
            try:
                model.predict(batch.state, batch.t, batch.previous)
            except _Enough:
                continue
    finally:
        for handle in handles:
            handle.remove()


def _token_weights(
    model: Backbone, batches: list[States], calibration: CalibrationConfig
) -> list[Tensor | None]:
    """Weights [B, L] of the tokens of each batch; None where all are alike. Of the model as it is before
    rounding."""
    rule = TOKEN_WEIGHTS.build(calibration.token_weight)
    if rule.name == "uniform":
        return [None] * len(batches)
    found: list[Tensor | None] = []
    for batch in batches:
        confidence = model.predict(batch.state, batch.t, batch.previous).log_probs.amax(-1).exp()
        words = getattr(model, "mask_id", None) is not None
        masked = batch.corrupted if words else (batch.level >= 0.5)[:, None].expand_as(batch.corrupted)
        found.append(rule.weights(Tokens(masked, confidence)))
    return found
