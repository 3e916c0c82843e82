"""One trial: base -> quantizers on their sites -> adapter -> straight-through training -> calibration ->
measurements at
rungs. Training and calibration may be left out."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from spaces.config import TrialConfig
from trainable.artifacts.artifact import MEASUREMENTS, SAMPLES, Loaded, load
from trainable.artifacts.malloc import large_apart, trim_heap
from trainable.artifacts.model_card import CARD, model_card
from trainable.artifacts.packed import CONFIG, Packed
from trainable.control.conditions import Conditions
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.models.backbone import Backbone
from trainable.models.checkpointing import checkpoint_blocks
from trainable.models.lora import count_parameters
from trainable.models.placement import offloads
from trainable.quantization.frozen import hold_codes
from trainable.quantization.sites import site_weights
from trainable.registry import PROCESSES, completed
from trainable.scoring.teacher import Teacher
from trainable.scoring.teachers import load_teacher
from trainable.seeds import stream_seed
from trainable.stages.adapted import adapted_model
from trainable.stages.adapting import adapted_layers, set_magnitudes, start_adapters
from trainable.stages.calibrate import rounded
from trainable.stages.evaluation import Measurement, measure
from trainable.stages.kept import shared
from trainable.stages.prepare import Prepared, conditions_of, diverged
from trainable.stages.supernet import extract
from trainable.storage.folders import write_manifest
from trainable.storage.window import Window
from trainable.training.checkpoint import Checkpoint
from trainable.training.loop import TrainingRun

CHECKPOINT, ARTIFACT = "checkpoint.pt", "artifact"
SMALL = 10**7
"""Values of a model up to which a second one, to be measured, costs little memory."""


class Trial:
    """One trial on one worker. `rung(i)` trains up to that rung's steps and measures."""

    def __init__(self, config: TrialConfig, prepared: Prepared, rungs: Sequence[int], folder: Path,
                 device: torch.device, cache: dict, rank: int = 0, world_size: int = 1,
                 window: Window | None = None):
        config = completed(config)
        optim = config.adapt.optim.model_copy(update={"steps": rungs[-1]})
        self.config = config.model_copy(update={"adapt": config.adapt.model_copy(update={"optim": optim})})
        self.prepared, self.rungs, self.folder, self.device, self.cache = (prepared, list(rungs), folder,
                                                                           device, cache)
        self.rank, self.window = rank, window or Window(None)
        self.corpus = shared(cache, "corpus",
                             prepared.corpus, lambda: TokenizedCorpus.open(Path(prepared.corpus)))
        self.process = PROCESSES.build(config.diffusion)
        self.member: Backbone | None = None
        self.facts: dict = {}
        with large_apart() if self._codes else contextlib.nullcontext():
            base = shared(cache, "base", prepared.base, lambda: load(prepared.base, run_codes=False))
            if self._codes:  # a worker that has no room for floats lets the base go
                cache.pop("base", None)
            self.lexicon = base.lexicon
            self.offload = config.calibration.active and offloads(config.calibration.offload, base.model,
                                                                  device)
            if config.adapt.mode == "supernet":
                self.member, self.facts = extract(self.config, base, Path(prepared.supernet))
                self.member.to(device).requires_grad_(False).eval()
            trains = config.adapt.train and (self.member is None or len(self.rungs) > 1)
            if trains or self.member is None:
                self.model, facts = adapted_model(self.config, base, self._codes and not self._starts)
                self.facts = facts | self.facts
                self._place(base)
            if self._codes:
                del base
                gc.collect()  # floats are held by modules that hold each other
                trim_heap()
        self.run: TrainingRun | None = None
        self.measured: list[dict] = []
        self.losses: dict[str, float] = {}
        if trains:
            seed = stream_seed("trial", config.seed) % 2**31
            self.run = TrainingRun(self.model, self.process, self.corpus.ids("train"), optim, config.runtime,
                                   seed, device, rank, world_size, self._conditions())
            self.run.between = self.window.pause
            self.checkpoint = Checkpoint(folder / CHECKPOINT, self.run)
            self.checkpoint.restore()
            self.measured = self.checkpoint.notes.get("measured", [])
            self.losses = self.checkpoint.notes.get("losses", {})
        else:
            if self.member is not None:
                self.model = self.member
            self.model.requires_grad_(False).eval()

    def _place(self, base: Loaded) -> None:
        """Let the adapters begin, and put the model on its device, as codes where those are asked for."""
        lora, adapt = self.config.lora, self.config.adapt
        if self._codes and not self._starts:
            hold_codes(self.model)
        if adapt.train or not self.offload:
            self.model.to(self.device)
        if self._starts:
            self.facts |= start_adapters(self.model, base.model.to(self.device), self.process, self.corpus,
                                         self.config)
        elif lora.variant == "dora" and lora.rank > 0:
            set_magnitudes(adapted_layers(self.model))
        if self._codes:
            hold_codes(self.model)
        if adapt.train and adapt.checkpointing:
            checkpoint_blocks(self.model)

    @property
    def _codes(self) -> bool:
        return self.config.adapt.train and self.config.adapt.hold == "codes"

    @property
    def _starts(self) -> bool:
        """Whether the adapters begin from the base's weights."""
        return self.config.lora.start.name != "zero" and self.config.lora.rank > 0

    def _conditions(self) -> Conditions | None:
        """What the model goes on being told, where its base was."""
        corpus = Path(self.prepared.corpus)
        key = f"{corpus} {self.config.model} {self.config.diffusion}"
        return shared(self.cache, "conditions", key, lambda: conditions_of(self.config, corpus))

    def rung(self, index: int) -> dict:
        """Train to rung `index` and measure there. Ranks other than 0 train only. Flat, JSON-able.

        The checkpoint is written before the rung is measured, and holds what the rungs before measured. So a
        worker that takes over from one that was killed tells those again, as they were, and measures the rung
        that was trained last. A trial that trains nothing uses the rung's share of calibration states and
        of what is measured. Of several rungs of a supernet's member the lowest measures the member; above,
        the trial trains by itself, from the base.
        """
        if index < len(self.measured):
            return self.measured[index]
        if self.run is None:
            event = self._untrained(index)
        elif self.member is not None and index == 0:
            event = self._of_member(self.member)
        else:
            event = self._trained(index, self.run)
        self.measured.append(event)
        return event

    def _untrained(self, index: int) -> dict:
        if self.rank:
            return {"rung": index}
        final, share = index == len(self.rungs) - 1, self.rungs[index] / self.rungs[-1]
        values = self._measure(final, share, share)
        return {"rung": index, "steps": self.rungs[index], "final": final, **values}

    def _of_member(self, member: Backbone) -> dict:
        if self.rank:
            return {"rung": 0}
        own, self.model = self.model, member
        try:
            values = self._measure(False, self.config.evaluation.rung_share)
        finally:
            self.model = own
        return {"rung": 0, "steps": self.rungs[0], "final": False, **values}

    def _trained(self, index: int, run: TrainingRun) -> dict:
        final = index == len(self.rungs) - 1
        try:
            losses = run.advance(self.rungs[index]) or self.losses  # none: it was at this rung
        except FloatingPointError as error:
            raise diverged(error, "adapt", self.config.adapt.optim) from error
        if self.rank:
            return {"rung": index}
        self.checkpoint.save(measured=self.measured, losses=losses)
        with run.averaged():
            values = self._measure(final, 1.0 if final else self.config.evaluation.rung_share)
        return {"rung": index, "steps": run.step, "final": final, **losses, **self._pace(), **values}

    def _pace(self) -> dict:
        """`tokens_per_second`: positions trained per second by all workers together, padding counted;
        empty when unknown."""
        assert self.run is not None
        positions = self.config.adapt.optim.batch_size * self.config.corpus.max_length
        seconds = self.run.seconds
        return {"tokens_per_second": self.run.step * positions / seconds} if seconds > 0 else {}

    def close(self) -> None:
        """Drop the checkpoint: the trial will not go on."""
        if self.run is not None:
            self.checkpoint.drop()

    @property
    def steps(self) -> int:
        """Optimizer steps that have been taken."""
        return self.run.step if self.run else 0

    def _measure(self, final: bool, share: float, calibrated: float = 1.0) -> dict:
        """By shares of the configured sample counts, and of the calibration states."""
        facts = {**self.facts, "train_seconds": self.run.seconds if self.run else 0.0,
                 "base": str(Path(self.prepared.base).resolve())}
        packed = Packed.pack(self.model, self.config, self.lexicon)
        if self.config.calibration.active:
            packed, found = rounded(packed, self.process, self.corpus, calibrated, self.device, self.offload)
            facts |= found
        facts |= packed.facts(facts)
        artifact = self.folder / ARTIFACT if final else None
        if artifact is not None:
            shutil.rmtree(artifact, ignore_errors=True)
            packed.write(artifact, facts)
        # The trained model computes what is exported, unless some of it is rounded on the way; with
        # DoRA it does so slower, and a small one with any adapter, which an export adds to the weights.
        lora = self.config.lora
        slower = lora.variant == "dora" or lora.rank > 0 and count_parameters(self.model)[1] <= SMALL
        changed = (self.config.quantization.body.name != "float32" or self.config.calibration.active
                   or self._codes or self.model.stored != torch.float32 or slower)
        measurement = Measurement(
            config=self.config, model=packed.run(self.device) if changed else self.model,
            process=self.process, corpus=self.corpus,
            teacher=self._teacher(), facts=facts, device=self.device, share=share,
            artifact=artifact, base_artifact=Path(self.prepared.base) if final else None,
            cache=self.cache, reference=self.prepared.reference, window=self.window)
        values = {**{name: value for name, value in facts.items() if isinstance(value, int | float)},
                  **measure(measurement, final), "embedding_rms": self._embedding_rms()}
        if artifact is not None:
            (artifact / SAMPLES).write_text(json.dumps(measurement.shown(), ensure_ascii=False, indent=1),
                                            encoding="utf-8")
            record_measurements(artifact, {**values, "steps": self.steps})
            values["artifact"] = str(artifact)
        return values

    def _teacher(self) -> Teacher:
        return shared(self.cache, "teacher", self.prepared.teacher,
                      lambda: load_teacher(self.prepared.teacher, self.corpus, self.device))

    def _embedding_rms(self) -> float:
        _, table = site_weights(self.model, "embedding")[0]
        weight = table.weight
        assert isinstance(weight, Tensor)
        return float(weight.detach().float().pow(2).mean().sqrt())


def record_measurements(artifact: Path, values: dict) -> None:
    """Put what was measured beside the weights."""
    (artifact / MEASUREMENTS).write_text(json.dumps(values, indent=1, sort_keys=True))
    head = json.loads((artifact / CONFIG).read_text())
    (artifact / CARD).write_text(model_card(head, values))
    write_manifest(artifact)


def run_trial(config: TrialConfig, prepared: Prepared, rungs: Sequence[int], folder: Path,
              device: torch.device, cache: dict, rank: int = 0, world_size: int = 1,
              window: Window | None = None) -> Iterator[dict]:
    """Yields `{"ready": True}` when the first training step (or calibration) can start, then one measurement
    per rung.

    Closing the generator ends the trial and drops its checkpoint; a killed worker leaves it for the retry,
    which tells every rung, those too that the killed one may have told: whoever listens knows which are new.
    """
    trial = Trial(config, prepared, rungs, folder, device, cache, rank, world_size, window)
    with contextlib.ExitStack() as stack:
        yield {"ready": True}
        stack.callback(trial.close)
        for index, steps in enumerate(rungs):
            if steps >= trial.steps or index < len(trial.measured):
                yield trial.rung(index)


def remeasure(artifact: Path, prepared: Prepared, seed: int, device: torch.device, cache: dict,
              window: Window | None = None) -> dict:
    """Every metric of an exported model again, from the files alone and with fresh sampling noise."""
    loaded = load(artifact, device)
    corpus = shared(cache, "corpus", prepared.corpus, lambda: TokenizedCorpus.open(Path(prepared.corpus)))
    teacher = shared(cache, "teacher",
                     prepared.teacher, lambda: load_teacher(prepared.teacher, corpus, device))
    measurement = Measurement(config=loaded.config, model=loaded.model, process=loaded.process, corpus=corpus,
                              teacher=teacher, facts=loaded.facts, device=device, artifact=artifact,
                              base_artifact=Path(prepared.base), seed=seed, cache=cache,
                              reference=prepared.reference, window=window)
    return measure(measurement, final=True)
