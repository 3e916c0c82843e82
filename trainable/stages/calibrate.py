"""Post-training quantization of a model: calibration states, statistics block by block, rounding, what is
then packed.

Blocks are rounded in the order in which the model runs them, each on inputs that come from blocks already
rounded, and only the statistics of one block are held at a time (passes.py feeds them). A model that does not
fit its device is there block by block (models/placement.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spaces.config import CalibrationConfig, PluginRef, TrialConfig
from spaces.errors import UserError
from trainable.artifacts.packed import Packed
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.process import Process
from trainable.diffusion.rollouts import rollout
from trainable.diffusion.states import States, corrupted, joined, rows_at_once, spread, visited
from trainable.models.backbone import Backbone
from trainable.models.noise import Noise
from trainable.models.parts import block_name
from trainable.models.placement import Placement, Streamed
from trainable.quantization.post_training.attention import attention_of, detach
from trainable.quantization.post_training.base import PostTraining
from trainable.quantization.post_training.block import Block
from trainable.quantization.post_training.corrections import Correction, corrections_of
from trainable.quantization.post_training.input_ranges import static_ranges
from trainable.quantization.post_training.intervals import Intervals
from trainable.quantization.post_training.stored import Stored, chain_of, stored
from trainable.quantization.post_training.token_weights import Tokens, attention_received
from trainable.registry import TOKEN_WEIGHTS
from trainable.seeds import stream
from trainable.stages.passes import Passes

BATCH = 32
ROLLOUT_STATES = 3
"""Calibration states taken from one generation, on average."""
QUOTAS = (0.3, 0.2, 0.2, 0.3)
"""Shares of the states by quarter of the noise level (DLLMQuant's TMAS, arXiv 2508.14090)."""


class Calibrated(NamedTuple):
    """What is written for each rounded weight, and numbers worth a column."""

    weights: dict[str, Stored]
    facts: dict[str, float]
    plain: dict[str, Tensor] = {}
    """Float tensors that are replaced: biases that a correction has changed."""


def rounded(
    packed: Packed, process: Process, corpus: TokenizedCorpus, share: float, device: torch.device,
    offload: bool = False,
) -> tuple[Packed, dict[str, float]]:
    """A packed model with its Linears rounded as its config says, on `share` of the calibration states. With
    `offload` one block of it is on the device at a time.

    Raises `UserError`: too few texts, a site without a layer, statistics that a method cannot work with.
    """
    done = calibrated(packed, process, corpus, packed.config, device, offload, share)
    return packed.rounded(done.weights, done.plain), done.facts


def calibrated(packed: Packed, process: Process, corpus: TokenizedCorpus, config: TrialConfig,
               device: torch.device, offload: bool = False, share: float = 1.0) -> Calibrated:
    """What `config` makes of a packed model; see `rounded`."""
    model, place = to_round(packed, device, offload)
    try:
        with place.around():
            states = calibration_states(model, process, corpus, config, share)
            prior = prior_of(model, process, config)
        return calibrate(model, states, config.calibration, prior, place)
    finally:
        place.close()


def to_round(packed: Packed, device: torch.device, offload: bool) -> tuple[Backbone, Placement]:
    """A model that may be rounded in place: statistics and rounding are done in float32."""
    if not offload:
        return packed.run(device).float(), Placement()
    model = packed.run(torch.device("cpu"))  # its weights are those that were packed
    return model, Streamed(model, device, torch.float32)


def prior_of(model: Backbone, process: Process, config: TrialConfig) -> Tensor | None:
    """Weights of positions [L] from roll-outs of the model as it is, where the token weight asks for them."""
    rule = TOKEN_WEIGHTS.build(config.calibration.token_weight)
    if not rule.probes:
        return None
    device = next(model.parameters()).device
    noise = stream("calibration", "probes", config.calibration_seed, device=device)
    parts = [rollout(model, process, config.sampling, count, config.corpus.max_length, noise)
             for count in _batches(rule.probes)]
    return rule.prior(*(torch.cat(found) for found in zip(
        *((part.committed, part.confidence, part.open) for part in parts), strict=True)))


def _batches(count: int) -> list[int]:
    return [min(BATCH, count - start) for start in range(0, count, BATCH)]


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
def calibrate(
    model: Backbone, states: States, calibration: CalibrationConfig, prior: Tensor | None = None,
    place: Placement | None = None,
) -> Calibrated:
    """Round the Linears of the configured sites, in place of the layers of `model` (in eval mode).

    The arrays that the model's weights shared with others are left as they were. `prior` [L]: of positions
    (`prior_of`). `place`: of the model, where its weights are not all on the device of the states.
    """
    began, place = time.perf_counter(), place or Placement()
    chain, corrections = chain_of(calibration.method, calibration.transforms), corrections_of(calibration)
    batches = states.split(rows_at_once(model, states, BATCH))
    intervals = Intervals.equal(calibration.intervals)
    with place.around():
        weighing = _Weighing(model, batches, calibration, prior)
    if len(intervals) > 1 or any(each.by_state or each.attention and not each.late for each in corrections):
        model.noise = Noise()
    asked = sites_of(model, calibration)
    check_bits(asked, calibration)
    found: dict[str, Stored] = {}
    plain: dict[str, Tensor] = {}
    reports: list[dict[str, float]] = []
    with place.around():
        order = blocks(model, batches[0], calibration)
    if any(each.attention for each in corrections) and not any(
            attention_of(model, block_name(names[0])) for names in order):
        raise UserError(f"calibration.corrections: model {model.name} has no attention that they could "
                        "act on")
    passes = Passes(model, batches, [block_name(names[0]) for names in order],
                    full=any(each.late for each in corrections), place=place)
    for names in order:
        name = block_name(names[0])
        own = {name: of_layer(calibration, asked[name], name) for name in names}
        methods = {name: chain_of(each.method, each.transforms) for name, each in own.items()}
        block = Block(model, name, names, attention_of(model, name), passes, methods,
                      calibration.activation_bits, intervals)
        if block.parts is not None and block.parts.output not in names:
            block.parts = None
        with place.at(name):
            if any(each.late for each in corrections):
                block.full = passes.as_before(name, block.parts.output if block.parts else None)
            passes.weights = weighing.of(block)
            _round(block, chain, corrections, static=calibration.activation_range == "static")
        for name in names:
            done = stored(own[name], block.layers[name].done, block.running(name))
            arrays = {key: place.home(value) for key, value in done.arrays.items()}
            found[f"{name}.weight"] = done._replace(arrays=arrays)
        reports += [layer.done.encoded.report for layer in block.layers.values()]
        plain |= {name: place.home(value) for name, value in block.biases.items()}
        del block  # its weights make room before the next block comes
    facts = {"calibration_states": float(len(states.t)), "calibration_seconds": time.perf_counter() - began}
    for key in ("damping_retries", "dead_inputs"):
        if any(key in report for report in reports):
            facts[f"calibration_{key}"] = sum(report.get(key, 0.0) for report in reports)
    facts |= {f"calibration_{key}": value for each in corrections for key, value in each.facts.items()}
    return Calibrated(found, facts, plain)


def _round(block: Block, chain: PostTraining, corrections: list[Correction], static: bool) -> None:
    """One block: statistics, weights, what acts on layers, what acts on the attention; last an output
    projection that a correction has changed."""
    apart = frozenset().union(*(each.needs for each in corrections))
    last = [block.parts.output] if block.parts is not None and any(each.late for each in corrections) else []
    for names in ([name for name in block.linears if name not in last], last):
        if names == last != []:
            for each in corrections:
                each.finish(block)
        if not names:
            continue
        block.statistics = block.collect(names, chain.needs | apart, apart=bool(apart))
        for name in names:
            block.round(name, block.statistics)
            if not apart:
                block.statistics.drop(name)
        for each in corrections:
            each.layers(block, names)
        if static:
            static_ranges(block, names)
        block.statistics = None
    if not last:
        for each in corrections:
            each.finish(block)
    if block.parts is not None and block.attention is not None and block.attention.rounding is None:
        detach(block.model.get_submodule(block.parts.core))


def blocks(model: Backbone, batch: States, calibration: CalibrationConfig) -> list[list[str]]:
    """Names of the Linears of the configured sites, block by block as the model runs them.

    A block is what shares a numbered module (`body.layer.0`). Raises `UserError` for a weight that the model
    does not use
    as a layer.
    """
    asked = sites_of(model, calibration)
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
    return [list(names) for _, names in groupby(order, block_name)]


def sites_of(model: Backbone, calibration: CalibrationConfig) -> dict[str, str]:
    """The Linears of the configured sites, each with its site."""
    return {name: site for site in calibration.sites for name in model.sites()[site]}


def block_number(name: str) -> int | None:
    """`body.layer.3.attention.self.query` -> 3; None without a number."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def of_layer(calibration: CalibrationConfig, site: str, name: str) -> CalibrationConfig:
    """The settings of one Linear: with its own weight bits, where it has some."""
    bits = calibration.bits_at(site, block_number(name))
    if bits is None:
        return calibration
    method = PluginRef(name=calibration.method.name, **{**calibration.method.params, "bits": bits})
    return calibration.model_copy(update={"method": method})


def check_bits(asked: Mapping[str, str], calibration: CalibrationConfig) -> None:
    """Raises `UserError` for bits of a site or a block that is not rounded."""
    legal = dict.fromkeys([*asked.values(), *(f"{site}_{number}" for name, site in asked.items()
                                              if (number := block_number(name)) is not None)])
    if unknown := [key for key in calibration.bits if key not in legal]:
        raise UserError(f"calibration.bits: {unknown[0]} is not rounded; legal: {', '.join(legal)}")


class _Weighing:
    """Weights of calibration tokens, from the model before it is rounded; those by attention block by block,
    as the block is before it is rounded."""

    def __init__(self, model: Backbone, batches: list[States], calibration: CalibrationConfig,
                 prior: Tensor | None):
        self.rule = TOKEN_WEIGHTS.build(calibration.token_weight)
        self.tokens: list[Tokens] = []
        for batch in batches if self.rule.name != "uniform" else []:
            words = getattr(model, "mask_id", None) is not None
            masked = batch.corrupted if words else (batch.level >= 0.5)[:, None].expand_as(batch.corrupted)
            confidence = None
            if "confidence" in self.rule.needs:
                confidence = model.predict(batch.state, batch.t, batch.previous).log_probs.amax(-1).exp()
            self.tokens.append(Tokens(masked, confidence, prior=prior))
        self.fixed: list[Tensor | None] = [None] * len(batches)
        if "attention" not in self.rule.needs and self.tokens:
            self.fixed = [self.rule.weights(tokens) for tokens in self.tokens]

    def of(self, block: Block) -> list[Tensor | None]:
        """[B, L] of each batch; None where all tokens are alike, as in a block without attention for a rule
        that needs it."""
        if "attention" not in self.rule.needs or block.parts is None:
            return self.fixed
        received: list[Tensor] = []
        block.look(lambda probabilities, *_: received.append(attention_received(probabilities)))
        return [self.rule.weights(tokens._replace(attention=own))
                for tokens, own in zip(self.tokens, received, strict=True)]
