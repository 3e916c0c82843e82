"""One run that trains all ranks at all bit-widths, kept in the cache, and how a trial becomes one of
its members."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spaces.config import MIXED, TrialConfig
from trainable.adapters.supernet import Draws, Member
from trainable.artifacts.artifact import Loaded, load
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.models.backbone import Backbone
from trainable.registry import PROCESSES, completed
from trainable.seeds import stream_seed
from trainable.stages.adapted import adapted_model
from trainable.stages.keys import supernet_settings
from trainable.stages.members import as_member, member_of, scale_of
from trainable.stages.prepare import REPORT_EVERY, Prepared, Present, base_key, conditions_of, diverged
from trainable.stages.rebasing import rebase, turns
from trainable.stages.supernet_model import MemberLoss, Supernet, build, mixed_places, site_of
from trainable.storage.depot import TRAINING
from trainable.storage.folders import content_key, verified, whole_folder
from trainable.training.checkpoint import Checkpoint
from trainable.training.loop import TrainingRun
from trainable.training.optimizer import learning_rate

CODE = 2
"""Raised when a change in the code makes supernets in caches wrong."""
WEIGHTS, FACTS = "supernet.safetensors", "supernet.json"
ALL = "all"
"""In the name of a tensor, instead of a bit-width: the same in every member."""


def steps_of(config: TrialConfig) -> int:
    """Optimizer steps of the one run."""
    return config.adapt.supernet_steps or 2 * config.adapt.optim.steps


def supernet_key(config: TrialConfig) -> str:
    """Supernets differ by base and by how their members are quantized, adapted and trained."""
    return content_key(CODE, base_key(config), supernet_settings(config))


def prepare_supernet(config: TrialConfig, prepared: Prepared, cache: Path, device: torch.device,
                     rank: int = 0, world_size: int = 1, present: Present = verified) -> Iterator[dict]:
    """Train the supernet of a trial over the prepared base. Yields progress, and last its folder with facts,
    as the stages of `trainable.stages.prepare` do; a run that is killed goes on from its checkpoint."""
    config = completed(config)
    folder = cache / f"supernet-{supernet_key(config)}"
    if not present(folder):
        yield from _train(config, prepared, folder, device, rank, world_size)
    facts = json.loads((folder / FACTS).read_text()) if rank == 0 else {}
    yield {"progress": 1.0, "path": str(folder), **facts}


def _train(config: TrialConfig, prepared: Prepared, folder: Path, device: torch.device, rank: int,
           world_size: int) -> Iterator[dict[str, Any]]:
    corpus = TokenizedCorpus.open(Path(prepared.corpus))
    base = load(prepared.base, run_codes=False)
    supernet = build(config, base, corpus, device)
    steps = steps_of(config)
    optim = config.adapt.optim.model_copy(update={"steps": steps})
    draws = Draws(config.adapt.ranks, config.adapt.bits, config.seed, config.adapt.lean,
                  config.adapt.mixtures, round(config.adapt.shrink * steps))
    run = TrainingRun(supernet, MemberLoss(PROCESSES.build(config.diffusion)), corpus.ids("train"), optim,
                      config.runtime.model_copy(update={"compile": False}),  # each member would compile anew
                      stream_seed("trial", config.seed) % 2**31, device, rank, world_size,
                      conditions_of(config, Path(prepared.corpus)),
                      lambda step: supernet.draw(draws.at(step)), partial(rate, config, draws))
    turning = turns(draws.widest, steps, config.adapt.rebase if len(config.adapt.ranks) > 1 else 0)
    run.between = lambda: rebase(supernet.adapters, run) if run.step in turning else None
    checkpoint = Checkpoint(folder.with_name(f".{folder.name}{TRAINING}"), run)
    if checkpoint.restore():
        yield {"progress": run.step / steps, "detail": f"going on from step {run.step:,}"}
    parts: dict[str, float] = {}
    while run.step < steps:
        if run.step >= draws.covered:  # before, the optimizer has no state of some weights
            checkpoint.save_when_due()
        try:
            parts = run.advance(min(run.step + REPORT_EVERY, steps))
        except FloatingPointError as error:
            checkpoint.drop()
            raise diverged(error, "adapt", optim) from error
        yield {"progress": run.step / steps, "detail": f"step {run.step:,}, loss {parts['train_loss']:.3f}",
               **parts}
    if rank:
        return
    with run.averaged(), whole_folder(folder) as aside:
        if turning and run.average:  # the average of singular bases is not quite one
            rebase(supernet.adapters)
        save_file(_kept(config, base, supernet), aside / WEIGHTS)
        (aside / FACTS).write_text(json.dumps({
            "supernet_steps": run.step, "supernet_seconds": run.seconds, "workers": world_size, **parts}))
    checkpoint.drop()


def rate(config: TrialConfig, draws: Draws, step: int) -> float:
    """The learning rate of a step: of its bit-width's own schedule, as if the steps of this width were a run
    by themselves, and the lower the more bits it has. Of a mixture the mean over its sites."""
    adapt, steps, drawn = config.adapt, steps_of(config), draws.at(step)
    found = []
    for bits in map(drawn.at, MIXED):
        at, of = ((draws.before(step, bits), draws.before(steps, bits)) if adapt.schedule == "width"
                  else (step, steps))
        found.append(learning_rate(at, adapt.optim.model_copy(update={"steps": max(1, of)}))
                     * 2.0 ** (-adapt.slower * (bits - min(adapt.bits))))
    return sum(found) / len(found)


def _kept(config: TrialConfig, base: Loaded, supernet: Supernet) -> dict[str, Tensor]:
    """What differs from a trial that has not trained: BITS/NAME, all/NAME where all members agree."""
    states = {bits: supernet.state(bits) for bits in config.adapt.bits}
    found: dict[str, Tensor] = {}
    for bits, state in states.items():
        model = supernet.models[str(bits)]
        changed = {name for name, value in model.named_parameters(remove_duplicate=False)
                   if value.requires_grad}
        if config.lora.start.name != "zero":  # it changes what is frozen
            blank = adapted_model(as_member(config, Member(supernet.largest, bits)), base)[0].state_dict()
            changed |= {name for name, value in state.items()
                        if not torch.equal(value.cpu(), blank[name].cpu())}
        for name in changed:
            value = state[name]
            same = all(other[name].data_ptr() == value.data_ptr() for other in states.values())
            found[f"{ALL if same else bits}/{name}"] = value.detach().cpu().clone().contiguous()
    return found


def extract(config: TrialConfig, base: Loaded, folder: Path) -> tuple[Backbone, dict]:
    """The member that a trial is, as a plain model of the trial, and facts: what
    `trainable.stages.adapted.adapted_model` returns, trained. `folder`: where `prepare_supernet` put
    the supernet."""
    model, facts = adapted_model(config, base)
    # a plain layer multiplies by alpha / rank
    share = scale_of(config, config.lora.rank) / (config.lora.alpha / config.lora.rank)
    fill(model, load_file(folder / WEIGHTS), member_of(config), share)
    told = json.loads((folder / FACTS).read_text())
    return model, {**facts, **{name: told[name] for name in ("supernet_steps", "supernet_seconds")}}


@torch.no_grad()
def fill(model: Backbone, kept: dict[str, Tensor], member: Member, share: float = 1.0) -> None:
    """Give a trial's model the weights of a member, those at each site of its bits there: of the adapter's
    factors the first rows and columns, the columns times `share`."""
    state, places = model.state_dict(), mixed_places(model)
    for key, value in kept.items():
        owner, _, name = key.partition("/")
        if owner not in (ALL, str(member.at(site_of(name, places)))):
            continue
        if ".lora_A." in name:
            value = value[:member.rank]
        elif ".lora_B." in name:
            value = value[:, :member.rank] * share
        state[name].copy_(value)
