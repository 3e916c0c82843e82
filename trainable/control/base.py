"""What a control task is: targets to ask for, a differentiable loss to steer by, and an oracle
that scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from spaces.config import GuidanceConfig
from spaces.errors import UserError
from trainable import registry
from trainable.control.constituents import Constituents
from trainable.control.layouts import Layout
from trainable.control.lexicon import AnyCorpus, Lexicon
from trainable.control.syntax import Syntax
from trainable.control.target_files import Entry, read_entries
from trainable.corpora.base import Split
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.process import Process
from trainable.models.backbone import Backbone
from trainable.models.prediction import Prediction

Target = dict[str, Any]
"""What one sentence is asked to be. JSON-able; `row` is the held-out row that it was drawn from, where there
is one, and `human` the words that it was made from, where they come from a file."""
T = TypeVar("T")
TRIES = 50  # held-out rows looked at per wanted target before the corpus is said to have none


@dataclass
class TaskContext:
    """What a task may count or train on before it guides. `cache` holds read-only objects and
    outlives a trial."""

    corpus: Any
    """`TokenizedCorpus`, or a `Lexicon` where an exported model stands alone."""
    cache: dict = field(default_factory=dict)
    model: Backbone | None = None
    """The backbone that will be guided."""
    process: Process | None = None
    """Its diffusion process."""
    fitted: dict = field(default_factory=dict)
    """What was trained for `model`: shared by the tasks of one measurement, gone with it."""

    def cached(self, kind: str, *key: Any, make: Callable[[], T]) -> T:
        """The object kept for this corpus under `kind` and `key`, made when there is none."""
        name = ("control", kind, id(self.corpus), *key)
        # the corpus is kept beside the value, so that its id is not given to another
        if name not in self.cache:
            self.cache[name] = (make(), self.corpus)
        return self.cache[name][0]


class TaskParams(registry.Params):
    """What every control task takes. Guidance settings given here win over `evaluation.guidance`."""

    targets: str | None = Field(None,
                                description="file of targets (released format) instead of held-out text")
    by: Literal["gradient", "classifier_free", "both", "reweight"] | None = Field(
        None, description="evaluation.guidance.by for this task")
    scale: float | None = Field(None, ge=0, description="evaluation.guidance.scale for this task")
    strength: float | None = Field(None, ge=0, description="evaluation.guidance.strength for this task")
    fluency: float | None = Field(None, ge=0, description="evaluation.guidance.fluency for this task")
    inner_steps: int | None = Field(None, ge=0, le=1000,
                                    description="evaluation.guidance.inner_steps for this task")


class ControlTask(ABC):
    """One kind of control. A subclass has `name`, a one-sentence docstring and `Params`.

    A task that needs counts or a trained controller gets them in `prepare` and keeps them to itself:
    everything goes through `loss`.
    """

    name: ClassVar[str]
    Params: ClassVar[type[TaskParams]] = TaskParams
    reads_x0: bool = False
    """Whether `loss` reads the clean latents of a prediction; where not, they may be left out."""

    def __init__(self, params: TaskParams):
        self.params = params

    # ---- targets ----

    def targets(self, corpus: TokenizedCorpus, n: int, generator: torch.Generator) -> list[Target]:
        """`n` targets: from the file where one is given, else from rows drawn from the held-out
        split of `corpus`.

        Fewer targets with the same generator are the first of more. A file that holds fewer is gone through
        again. Raises `UserError` when there is nothing to draw from.
        """
        if self.params.targets:
            return self._targets_from_file(self.params.targets, corpus, n, generator)
        count = len(corpus.lengths("valid"))
        found: list[Target] = []
        for _ in range(n * TRIES if count else 0):
            row = int(torch.randint(count, (), generator=generator))
            target = self.target(corpus, "valid", row, generator)
            if target is not None:
                found.append({**target, "row": row})
            if len(found) == n:
                return found
        raise UserError(f"control task '{self.name}': {self.no_target_reason(corpus)}")

    def no_target_reason(self, corpus: TokenizedCorpus) -> str:
        """Why a corpus gave no target, and what to do."""
        return "the corpus has no held-out sentences to draw targets from"

    @abstractmethod
    def target(self, corpus: TokenizedCorpus, split: Split, row: int,
               generator: torch.Generator) -> Target | None:
        """The target that one row of the corpus gives; None when it gives none."""

    def entry(self, entry: Entry, corpus: TokenizedCorpus, generator: torch.Generator) -> Target:
        """The target of one line of a target file. Raises `UserError` naming file, line and key."""
        raise UserError(f"{entry.where}: control task '{self.name}' reads no target files")

    def _targets_from_file(self, file: str, corpus: TokenizedCorpus, n: int,
                           generator: torch.Generator) -> list[Target]:
        entries = read_entries(Path(file).expanduser())
        order = torch.randperm(len(entries), generator=generator).tolist()
        return [self.entry(entries[order[i % len(order)]], corpus, generator) for i in range(n)]

    def check(self, max_length: int) -> None:
        """Raises `UserError` for what can be told before a run: a file that is missing or damaged,
        that lacks a field or asks for more words than `max_length` positions hold; an oracle
        that is not here."""
        if self.params.targets:
            for entry in read_entries(Path(self.params.targets).expanduser()):
                entry.fits(self.size(entry), max_length)

    def check_file(self, corpus: TokenizedCorpus, generator: torch.Generator) -> None:
        """Raises `UserError`, naming file, line and key, where a line of a target file asks for what
        `corpus` cannot give."""
        if self.params.targets:
            for entry in read_entries(Path(self.params.targets).expanduser()):
                self.entry(entry, corpus, generator)

    def size(self, entry: Entry) -> int:
        """How many words a line of a target file asks for; 0 where it does not say. Raises
        `UserError` as `entry` does."""
        return 0

    @abstractmethod
    def said(self, target: Target) -> str:
        """What a target asks for, as a person would put it: "12 words"."""

    # ---- steering ----

    def prepare(self, context: TaskContext) -> None:  # noqa: B027 - most tasks need nothing
        """Count or train what `loss` needs. Called once, before the first `loss`."""

    @abstractmethod
    def loss(self, prediction: Prediction, targets: list[Target], corpus: AnyCorpus) -> Tensor:
        """[B] how far each sentence is from its target, differentiable in the latent through `prediction`.

        `corpus` is only asked for `encode(words)`, so a `Lexicon` serves as well.
        """

    def guidance(self, config: GuidanceConfig) -> GuidanceConfig:
        """The settings to guide this task by: the task's own where given."""
        own = {name: value for name in ("by", "scale", "strength", "fluency", "inner_steps")
               if (value := getattr(self.params, name)) is not None}
        return config.model_copy(update=own)

    def layout(self, target: Target, length: int, corpus: AnyCorpus) -> Layout:
        """What the target fixes and prefers, for a process whose state is words. Raises `UserError`
        where it fixes nothing of the kind, or does not fit into `length` positions."""
        raise UserError(f"control task '{self.name}': has no reweighting; guide it by: "
                        "gradient or classifier_free")

    def tag_counts(self) -> Syntax | None:
        """Counts over tagged text, of a task that goes by them."""
        return None

    def constituents(self) -> Constituents | None:
        """Phrases of training text, of a task that asks for some."""
        return None

    # ---- telling a model ----

    def required_conditions(self) -> list[str]:
        """The tasks that must be among `model.conditions` for a model to be told a target."""
        return [self.name]

    def symbols(self, lexicon: Lexicon) -> list[str]:
        """Every symbol that `condition` may use, `NAME ...` each; a task whose targets a model can
        be told has both."""
        return []

    def condition(self, target: Target, positions: int) -> list[list[str]]:
        """What a model that was told targets while it trained is told of this one: rows of
        `positions` symbols, START being position 0, an empty one where nothing is said. Rows add up. Raises
        `UserError` where a target cannot be told."""
        raise UserError(f"control task '{self.name}': its targets cannot be told to a model; "
                        "guide it by: gradient")

    # ---- scoring ----

    @abstractmethod
    def score(self, words: list[str], target: Target) -> dict[str, float]:
        """`success` (0 to 1; a share where the task is one) and whatever else tells how near `words` came."""

    @abstractmethod
    def oracle(self, target: Target) -> str:
        """What decides about success. Scores by different oracles are never comparable."""

    @abstractmethod
    def code(self, target: Target) -> list[str]:
        """The target as a row of symbols, for models that read it as a prompt."""

    # ---- what people write ----

    def keys(self, lexicon: Lexicon) -> list[str]:
        """The words that may stand before `=` in a written control; none when targets are not
        written by hand."""
        return []

    def parse(self, key: str, value: str, lexicon: Lexicon) -> Target:
        """The target written as `key=value`, `key` being one of `keys`. Raises `UserError`
        naming what is legal."""
        raise UserError(f"control {key}={value}: targets of task {self.name!r} cannot be written by hand")
