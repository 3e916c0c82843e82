"""A base that is trained for a number of CPU seconds, so that processes are compared at equal cost.

The learning rate falls to its last value when the time is up: how many steps that will be is planned
anew after every few, from what they took. Training goes on from a checkpoint where an earlier call
was ended.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch

from spaces.config import TrialConfig
from trainable.artifacts.artifact import export
from trainable.artifacts.packed import CONFIG
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.registry import BACKBONES, PROCESSES, completed
from trainable.seeds import stream_seed
from trainable.stages.prepare import lexicon_of
from trainable.storage.folders import content_key, verified
from trainable.training.checkpoint import Checkpoint
from trainable.training.loop import TrainingRun

CHUNK = 25
"""Steps between looks at the clock."""
SAVED = 100
"""Steps between checkpoints."""
OPEN = 10**9
"""Steps of a plan before there is one."""
EXPORTED = {"corpus", "model", "diffusion", "base", "runtime", "sampling"}


def timed_base(config: TrialConfig, corpus: Path, cache: Path, seconds: float) -> Path:
    """The artifact of a base trained on `corpus` for `seconds` of this process' CPU time (training
    steps alone: neither reading nor checkpoints count). `facts` says the steps and the seconds."""
    config = completed(config)
    settings = config.model_dump(mode="json", include={"model", "diffusion", "base", "runtime"})
    folder = cache / f"timed-{content_key(1, corpus.name, settings, seconds)}"
    if verified(folder):
        return folder
    run = training_run(config, corpus)
    checkpoint = Checkpoint(folder.with_name(f".{folder.name}.training"), run)
    spent = checkpoint.notes["spent"] if checkpoint.restore() else 0.0
    parts: dict[str, float] = {}
    while spent < seconds:
        _plan(run, spent, seconds)
        began = time.process_time()
        parts = run.advance(run.step + CHUNK)
        spent += time.process_time() - began
        if run.step % SAVED == 0:
            checkpoint.save(spent=spent)
            print(f"step {run.step:,}, {spent:.0f} of {seconds:.0f} CPU seconds, "
                  f"loss {parts['train_loss']:.3f}", flush=True)
    with run.averaged():
        run.model.finish_base()
        optim = run.config.model_copy(update={"steps": run.step})
        exported = config.model_copy(update={"base": config.base.model_copy(update={"optim": optim})})
        facts = {"steps": run.step, "cpu_seconds": spent, "seed": config.base.seed,
                 "load": round(os.getloadavg()[0], 1), **parts}
        export(run.model, TrialConfig(**exported.model_dump(include=EXPORTED)), lexicon_of(corpus), folder,
               facts)
    checkpoint.drop()
    return folder


def facts_of(folder: Path) -> dict:
    """What an artifact says of its making."""
    facts: dict = json.loads((folder / CONFIG).read_text())["facts"]
    return facts


def training_run(config: TrialConfig, folder: Path) -> TrainingRun:
    """The training of a base on a prepared corpus, before its first step; when it ends is left open."""
    corpus, process = TokenizedCorpus.open(folder), PROCESSES.build(config.diffusion)
    model = BACKBONES.get(config.model.name).from_config(
        BACKBONES.params(config.model), process.params, corpus.vocab,
        seed=stream_seed("base", config.base.seed), symbols=())
    optim = config.base.optim.model_copy(update={"steps": OPEN})
    return TrainingRun(model, process, corpus.ids("train"), optim, config.runtime, config.base.seed,
                       torch.device("cpu"))


def _plan(run: TrainingRun, spent: float, seconds: float) -> None:
    """The number of steps at which the time will be up, if they go on costing what they did."""
    steps = OPEN if not run.step else planned_steps(run.step, spent, seconds)
    run.config = run.config.model_copy(update={"steps": steps})


def planned_steps(step: int, spent: float, seconds: float) -> int:
    """Steps in all, given `step` of them in `spent` CPU seconds; at least one chunk more."""
    return max(round(step * seconds / spent), step + CHUNK)
