"""The table of methods against tasks: the same targets, teacher and scorer for every cell, 95 % intervals
over targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.artifacts.artifact import Loaded, load
from trainable.baselines.fudge import Fudge
from trainable.baselines.prompted import BEAMS, Prompted
from trainable.control.base import ControlTask, Target, TaskContext
from trainable.control.conditions import check_conditioned
from trainable.control.generating import guided
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.controllability import all_scores, human_words
from trainable.metrics.intervals import mean_interval, perplexity_interval
from trainable.registry import TASKS
from trainable.scoring.teacher import Teacher
from trainable.scoring.teachers import load_teacher
from trainable.seeds import stream


@dataclass(frozen=True)
class ComparisonSetup:
    """What all cells share. `model` is the diffusion model with the settings that it generates by."""

    model: Loaded
    corpus: TokenizedCorpus
    teacher: Teacher
    targets: int
    seed: int = 0
    baseline_steps: int | None = None
    """Training steps of the baselines; None for their own."""
    tell: Callable[[str], None] = lambda text: None
    """Called with what is being done, now and then."""

    @cached_property
    def cache(self) -> dict:
        """Counts shared by the tasks."""
        return {}

    def diffusion(self, task: ControlTask, targets: Sequence[Target], by: str | None) -> list[list[str]]:
        """Texts of the diffusion model; unguided ones (`by` None) are the same plain samples
        for every task."""
        guidance = self.model.config.evaluation.guidance
        if by == "gradient" and by not in self.model.process.guides:  # a process without latents
            by = "reweight"
        if by:
            check_conditioned(task, by, getattr(self.model.model.params, "conditions", ()))
            guidance = task.guidance(guidance).model_copy(update={"by": by})
            task.prepare(TaskContext(self.corpus, self.cache, self.model.model, self.model.process))
            return guided(self.model.sampling(), task, targets, guidance, self.corpus,
                          self.model.config.corpus.max_length, stream("table", self.seed))
        ids = self.model.generate(len(targets), stream("table", self.seed))
        return [self.corpus.decode(row) for row in ids.tolist()]

    @property
    def own_words(self) -> GPT2LMHeadModel:
        """The teacher's network, where it is a GPT-2 over the corpus's words. Raises `UserError`
        where it is not."""
        if "vocabulary" not in self.teacher.facts or self.teacher.model is None:
            why = "has no network" if self.teacher.model is None else "has its own tokens"
            raise UserError("table: FUDGE and fine-tuned rows need a GPT-2 over the corpus's own words as "
                            f"teacher; {self.teacher.name} {why} (leave these methods out)")
        return self.teacher.model

    def options(self) -> dict:
        """Arguments of a baseline."""
        return {"tell": self.tell, **({} if self.baseline_steps is None else {"steps": self.baseline_steps})}


def open_comparison(artifact: Path | str, corpus: Path | str, teacher: str, targets: int, threads: int
                    | None = None, tell: Callable[[str], None] = lambda text: None) -> ComparisonSetup:
    """From folders (`teacher` may be a Hugging Face id), on the CPU, with so many torch threads."""
    if threads:
        torch.set_num_threads(threads)
    words = TokenizedCorpus.open(corpus)
    return ComparisonSetup(load(artifact), words, load_teacher(teacher, words), targets, tell=tell)


class _Baselines:
    """Baselines of one task, each trained when it is first asked for."""

    def __init__(self, setup: ComparisonSetup, task: ControlTask):
        self.ground, self.task = setup, task

    @cached_property
    def fudge(self) -> Fudge:
        return Fudge(self.task, self.ground.corpus.words, self.ground.own_words, self.ground.seed,
                     **self.ground.options())

    @cached_property
    def prompted(self) -> Prompted:
        return Prompted(self.task, self.ground.corpus.words, self.ground.own_words, self.ground.seed,
                        **self.ground.options())


Texts = list[list[str]]
METHODS: dict[str, Callable[[ComparisonSetup, _Baselines, list[Target]], Texts]] = {
    "human": lambda setup, baselines, targets: human_words(setup.corpus, targets)[0],
    "diffusion, unguided": lambda setup, baselines, targets: setup.diffusion(baselines.task, targets, None),
    "diffusion, guided": lambda setup, baselines, targets: setup.diffusion(baselines.task,
                                                                           targets, "gradient"),
    "diffusion, classifier-free": lambda setup, baselines, targets: setup.diffusion(baselines.task, targets,
                                                                                    "classifier_free"),
    "FUDGE": lambda setup, baselines, targets: baselines.fudge.generate(targets),
    "fine-tuned, sampled": lambda setup, baselines, targets: baselines.prompted.generate(targets),
    f"fine-tuned, beam {BEAMS}": lambda setup, baselines, targets: baselines.prompted.generate(targets,
                                                                                               beams=BEAMS),
}
"""Name -> one text per target. A new method is one entry."""
CLASSIFIER_FREE = "diffusion, classifier-free"


def is_applicable(method: str, task: ControlTask, conditions: Sequence[PluginRef]) -> bool:
    """Whether a model with these conditions can fill a cell: what it was never told, no classifier-free
    guidance leads to."""
    return method != CLASSIFIER_FREE or set(task.required_conditions()) <= {ref.name for ref in conditions}


def compare(setup: ComparisonSetup, tasks: Sequence[str], methods: Sequence[str]) -> Iterator[dict]:
    """One cell at a time: task, oracle, method, control and lm_score each [value, low, high], teacher,
    targets, example, and the seconds that it took, training included. Cells that the model has no conditions
    for are left out."""
    for name in tasks:
        task = TASKS.build(PluginRef(name=name))
        targets = task.targets(setup.corpus, setup.targets, stream("table targets", name, setup.seed))
        baselines = _Baselines(setup, task)
        for method in methods:
            if method == CLASSIFIER_FREE:
                conditions = getattr(setup.model.model.params, "conditions", ())
                if not is_applicable(method, task, conditions):
                    continue
            began = time.perf_counter()
            setup.tell(f"{name}, {method}")
            texts = METHODS[method](setup, baselines, targets)
            asked = human_words(setup.corpus, targets)[1] if method == "human" else targets
            scores = all_scores(task, texts, asked)
            success = scores.pop("success")
            nats, counts = setup.teacher.nll(texts)
            yield {"task": name, "oracle": "+".join(sorted({task.oracle(target) for target in targets})),
                   "method": method, "control": list(mean_interval(success)),
                   "lm_score": list(perplexity_interval(nats.tolist(), counts.tolist())),
                   "teacher": setup.teacher.name, "targets": len(targets), "example": " ".join(texts[0]),
                   "seconds": round(time.perf_counter() - began, 2),
                   **{f"score {key}": sum(found) / len(found) for key, found in scores.items()}}
