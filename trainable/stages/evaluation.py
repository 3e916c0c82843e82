"""What a model is worth: every registered metric, over one set of samples and one set of fixed noise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from spaces.config import SamplingConfig, TrialConfig
from trainable.artifacts.artifact import Loaded, load
from trainable.artifacts.packed import WEIGHTS
from trainable.control.base import ControlTask, Target, TaskContext
from trainable.control.generating import Controlled, Request, controlled_together
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.process import Process, Samples, Traced
from trainable.metrics.base import Metric, Yardstick
from trainable.metrics.reference import Reference
from trainable.models.backbone import Backbone
from trainable.quantization.sites import frozen_weights
from trainable.registry import METRICS
from trainable.scoring.teacher import Teacher
from trainable.seeds import stream
from trainable.stages.kept import shared
from trainable.storage.window import Window

SAMPLING_BATCH = 64
KEPT = 32 << 20
"""Bytes of a base that stays in a worker's memory from trial to trial."""
EXAMPLES = 6
"""Sentences of each kind that are kept for people to read."""


@dataclass(frozen=True)
class ArtifactRunner:
    """A loaded artifact under given sampling settings."""

    loaded: Loaded
    sampling: SamplingConfig

    @property
    def model(self) -> Backbone:
        """Of the artifact."""
        return self.loaded.model

    def generate(self, n: int, generator: torch.Generator) -> Tensor:
        """[n, L] word ids."""
        return self.loaded.sampling(self.sampling).sample(n, self.loaded.config.corpus.max_length, generator)


class Measurement:
    """One look at one model (`trainable.metrics.base.Measurable`). Samples are drawn once and shared
    by the metrics."""

    def __init__(self, *, config: TrialConfig, model: Backbone, process: Process, corpus: TokenizedCorpus,
                 teacher: Teacher, facts: dict, device: torch.device, share: float = 1.0,
                 artifact: Path | None = None, base_artifact: Path | None = None, seed: int | None = None,
                 cache: dict | None = None, reference: str = "", window: Window | None = None):
        """`reference`: of `trainable.metrics.reference.Reference`, as text; `window`: of this node."""
        self.config, self.model, self.process, self.corpus, self.teacher = (config, model, process,
                                                                            corpus, teacher)
        self.facts, self.device, self.share = facts, device, share
        self.notes: dict[str, str] = {}
        self.artifact, self.base_artifact = artifact, base_artifact
        self.cache = {} if cache is None else cache
        self.reference, self.window = reference, window or Window(None)
        self.seed = config.evaluation_seed if seed is None else seed
        self.sampling = process.sampling(model, config.sampling)
        self._task_context = TaskContext(corpus, self.cache, model, process)
        self.examples: list[dict] = []  # what was generated under control, a few of each task

    def generator(self, purpose: str) -> torch.Generator:
        """The noise for one purpose: the same in every trial, so that trials are compared on equal draws."""
        return stream("evaluation", purpose, self.seed)

    def count(self, configured: int) -> int:
        """This rung's share of a configured sample count."""
        return max(1, round(configured * self.share))

    @cached_property
    def _drawn(self) -> Samples:
        generator = self.generator("samples")
        parts = [self.sampling.generate(min(SAMPLING_BATCH, left), self.config.corpus.max_length, generator)
                 for left in range(self.count(self.config.evaluation.samples), 0, -SAMPLING_BATCH)]
        ids, passes = (torch.cat(found).cpu() for found in zip(*parts, strict=True))
        return Samples(ids, passes)

    @cached_property
    def _sentences(self) -> list[list[str]]:
        return [self.corpus.decode(row) for row in self._drawn.ids.numpy()]

    @cached_property
    def _traced(self) -> Traced:
        return self.sampling.traced(self.config.corpus.max_length)

    def load(self, artifact: Path) -> ArtifactRunner:
        """An exported model on this device, sampling as this trial samples (so that a pair differs
        in weights alone)."""
        loaded = self._base if artifact == self.base_artifact else load(artifact, self.device)
        return ArtifactRunner(loaded, self.config.sampling)

    @cached_property
    def _base(self) -> Loaded:
        """A small one is kept for the next trial, with the graphs that it runs as."""
        assert self.base_artifact is not None
        kind, make = "measured base", partial(load, self.base_artifact, self.device)
        if (self.base_artifact / WEIGHTS).stat().st_size > KEPT:
            self.cache.pop(kind, None)
            return make()
        return shared(self.cache, kind, f"{self.base_artifact} on {self.device}", make)

    def yardstick(self) -> Yardstick | None:
        """The base in a few steps, where it was timed when the run was prepared."""
        if not self.reference or self.base_artifact is None:
            return None
        return Reference.read(self.reference).beside(self._base)

    def pause(self) -> None:
        """While others take times."""
        self.window.pause()

    def alone(self) -> AbstractContextManager[bool]:
        """While times are taken."""
        return self.window.alone()

    def samples(self) -> list[list[str]]:
        """Generated sentences as words."""
        return self._sentences

    def traced(self) -> Traced:
        """What texts cost, by count."""
        return self._traced

    def passes(self) -> Tensor:
        """[n] of the texts that were drawn; of those that were counted where no metric read texts."""
        return self._drawn.passes if "_drawn" in self.__dict__ else self._traced.passes.cpu()

    def controlled(self, asked: Sequence[tuple[ControlTask, Sequence[Target]]]) -> list[Controlled]:
        """One guided sentence per target of each task; tasks share batches where they can."""
        for task, _ in asked:
            task.prepare(self._task_context)
        requests = [Request(task, targets, self.generator(f"control {task.name}")) for task, targets in asked]
        found = controlled_together(self.sampling, requests, self.config.evaluation.guidance, self.corpus,
                                    self.config.corpus.max_length)
        for (task, targets), texts in zip(asked, found, strict=True):
            self.note_examples(task, targets, texts.words)
        return found

    def note_examples(self, task: ControlTask, targets: Sequence[Target], words: list[list[str]]) -> None:
        """Keep the first few sentences of a task, with what was asked and whether its oracle finds it."""
        for target, sentence in list(zip(targets, words, strict=True))[:EXAMPLES]:
            self.examples.append({"task": task.name, "target": task.said(target), "text": " ".join(sentence),
                                  "success": task.score(list(sentence), target).get("success")})

    def shown(self) -> list[dict]:
        """A few generated sentences for people: {"task" ("" = without control), "target",
        "text", "success"}."""
        free = [{"task": "", "target": "", "text": " ".join(words), "success": None}
                for words in self.__dict__.get("_sentences", [])[:EXAMPLES]]
        return free + self.examples


def wanted(metric: Metric, columns: Sequence[str] | None) -> bool:
    """Whether a metric is to be measured where these columns are asked for: it is one of them, stands in for
    one below the top rung, or costs little, at all or beside one. None = all are but those that must be
    named."""
    if columns is None or metric.cheap:
        return metric.cheap or not metric.asked
    names = [metric.name, *([metric.along] if metric.along else []),
             *(name for name in METRICS if METRICS.get(name).proxy == metric.name)]
    return any(f"{column}_".startswith(f"{name}_") for column in columns for name in names)


def measure(measurement: Measurement, final: bool) -> dict:
    """Every metric that is due at this rung and asked for (`evaluation.metrics`) or cheap, and
    `seconds_NAME` that each took. Values are plain floats."""
    values: dict = {}
    with frozen_weights(measurement.model):  # once for all metrics, and so are graphs of the model
        for name in METRICS:
            metric = METRICS.build_default(name)
            asked = wanted(metric, measurement.config.evaluation.metrics)
            if metric.stage == "final" and not final or not asked:
                continue
            measurement.window.pause()
            started = time.perf_counter()
            values |= metric.measure(measurement)
            values[f"seconds_{name}"] = time.perf_counter() - started
    return {name: float(value) for name, value in values.items()} | measurement.notes
