"""The table of methods against tasks: the same targets, teacher and scorer for every cell, 95 % intervals over targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spaces.config import PluginRef
from spaces.errors import UserError
from trainable.artifact import Loaded, load
from trainable.baselines.fudge import Fudge
from trainable.baselines.prompted import BEAMS, Prompted
from trainable.control.base import ControlTask, Setting, Target
from trainable.control.generating import guided
from trainable.corpora.tokenize import TokenizedCorpus
from trainable.metrics.controllability import all_scores, human_words
from trainable.metrics.intervals import mean_interval, perplexity_interval
from trainable.registry import TASKS
from trainable.seeds import stream
from trainable.teacher import Teacher


@dataclass(frozen=True)
class Ground:
    """What all cells share. `model` is the diffusion model with the settings that it generates by."""

    model: Loaded
    corpus: object
    teacher: Teacher
    targets: int
    seed: int = 0
    baseline_steps: int | None = None
    """Training steps of the baselines; None for their own."""

    @cached_property
    def cache(self) -> dict:
        """Counts shared by the tasks."""
        return {}

    def diffusion(self, task: ControlTask, targets: Sequence[Target], guide: bool) -> list[list[str]]:
        """Texts of the diffusion model; unguided ones are the same plain samples for every task."""
        guidance = self.model.config.evaluation.guidance
        if guide:
            task.prepare(Setting(self.corpus, self.cache, self.model.model, self.model.schedule))
            return guided(self.model.process(), task, targets, guidance, self.corpus,
                          self.model.config.corpus.max_length, stream("table", self.seed))
        ids = self.model.generate(len(targets), stream("table", self.seed))
        return [self.corpus.decode(row) for row in ids.tolist()]

    @property
    def own_words(self):
        """The teacher's network, where it is a GPT-2 over the corpus's words. Raises `UserError` where it is not."""
        if "vocabulary" not in self.teacher.facts:
            raise UserError(f"table: FUDGE and fine-tuned rows need a teacher over the corpus's own words; {self.teacher.name} "
                            "has its own tokens (leave these methods out)")
        return self.teacher.model

    def options(self) -> dict:
        """Arguments of a baseline."""
        return {} if self.baseline_steps is None else {"steps": self.baseline_steps}


def opened_ground(artifact: Path | str, corpus: Path | str, teacher: str, targets: int) -> Ground:
    """From folders (`teacher` may be a Hugging Face id), on the CPU."""
    words = TokenizedCorpus.open(corpus)
    return Ground(load(artifact), words, Teacher.load(teacher, words), targets)


class _Trained:
    """Baselines of one task, each trained when it is first asked for."""

    def __init__(self, ground: Ground, task: ControlTask):
        self.ground, self.task = ground, task

    @cached_property
    def fudge(self) -> Fudge:
        return Fudge(self.task, self.ground.corpus, self.ground.own_words, self.ground.seed, **self.ground.options())

    @cached_property
    def prompted(self) -> Prompted:
        return Prompted(self.task, self.ground.corpus, self.ground.own_words, self.ground.seed, **self.ground.options())


Texts = list[list[str]]
METHODS: dict[str, Callable[[Ground, _Trained, list[Target]], Texts]] = {
    "human": lambda ground, trained, targets: human_words(ground.corpus, targets)[0],
    "diffusion, unguided": lambda ground, trained, targets: ground.diffusion(trained.task, targets, guide=False),
    "diffusion, guided": lambda ground, trained, targets: ground.diffusion(trained.task, targets, guide=True),
    "FUDGE": lambda ground, trained, targets: trained.fudge.generate(targets),
    "fine-tuned, sampled": lambda ground, trained, targets: trained.prompted.generate(targets),
    f"fine-tuned, beam {BEAMS}": lambda ground, trained, targets: trained.prompted.generate(targets, beams=BEAMS),
}
"""Name -> one text per target. A new method is one entry."""


def compare(ground: Ground, tasks: Sequence[str], methods: Sequence[str]) -> Iterator[dict]:
    """One cell at a time: task, oracle, method, control and lm_score each [value, low, high], teacher, targets, example."""
    for name in tasks:
        task = TASKS.build(PluginRef(name=name))
        targets = task.targets(ground.corpus, ground.targets, stream("table targets", name, ground.seed))
        trained = _Trained(ground, task)
        for method in methods:
            texts = METHODS[method](ground, trained, targets)
            asked = human_words(ground.corpus, targets)[1] if method == "human" else targets
            scores = all_scores(task, texts, asked)
            success = scores.pop("success")
            yield {"task": name, "oracle": "+".join(sorted({task.oracle(target) for target in targets})), "method": method,
                   "control": list(mean_interval(success)), "lm_score": list(perplexity_interval(*ground.teacher.nll(texts))),
                   "teacher": ground.teacher.name, "targets": len(targets), "example": " ".join(texts[0]),
                   **{f"score {key}": sum(found) / len(found) for key, found in scores.items()}}
