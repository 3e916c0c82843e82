"""Two controls, or more, of one text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor

from spaces.config import PluginRef
from trainable.control.base import ControlTask, Target, TaskContext, TaskParams
from trainable.control.constituents import Constituents
from trainable.control.layouts import Layout, merged
from trainable.control.lexicon import AnyCorpus
from trainable.control.syntax import Syntax
from trainable.corpora.base import Split
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.models.prediction import Prediction
from trainable.registry import TASKS


class Compose(ControlTask):
    """Several controls at once, targets of one text; success is the product of the parts', each is
    shown beside it."""

    name = "compose"

    class Params(TaskParams):
        """`tasks`: the controls, each with its parameters."""

        tasks: tuple[PluginRef, ...] = Field((PluginRef(name="semantic"), PluginRef(name="pos")),
                                             min_length=2,
                                             description="the controls that are asked for together")

        @field_validator("tasks")
        @classmethod
        def _flat(cls, tasks: tuple[PluginRef, ...]) -> tuple[PluginRef, ...]:
            if any(ref.name == "compose" for ref in tasks):
                raise ValueError("compose cannot hold compose")
            return tasks

    params: Params
    _held: tuple[list[Target], list[list[Target]]] | None = None

    def __init__(self, params: Params, parts: Sequence[ControlTask] = ()):
        """`parts`: the controls themselves, where they exist already."""
        super().__init__(params)
        self.parts = list(parts) or [TASKS.build(ref) for ref in params.tasks]
        self.reads_x0 = any(part.reads_x0 for part in self.parts)
        self.labels = [part.name if part.name not in [other.name for other in self.parts[:i]]
                       else f"{part.name}{i + 1}" for i, part in enumerate(self.parts)]

    @classmethod
    def of(cls, parts: Sequence[ControlTask]) -> Compose:
        """These controls together."""
        return cls(cls.Params(tasks=tuple(PluginRef(name=part.name) for part in parts)), parts)

    def target(self, corpus: TokenizedCorpus, split: Split, row: int,
               generator: torch.Generator) -> Target | None:
        """One target of each part, all of the same row, so that a text that meets them all exists."""
        parts = [part.target(corpus, split, row, generator) for part in self.parts]
        return {"parts": parts} if all(part is not None for part in parts) else None

    def said(self, target: Target) -> str:
        """Every part's."""
        return " and ".join(part.said(own) for part, own in zip(self.parts, target["parts"], strict=True))

    def no_target_reason(self, corpus: TokenizedCorpus) -> str:
        """One of the parts refused every row."""
        return "no held-out text gives a target to each of " + ", ".join(part.name for part in self.parts)

    def check(self, max_length: int) -> None:
        """Every part's."""
        super().check(max_length)
        for part in self.parts:
            part.check(max_length)

    def prepare(self, context: TaskContext) -> None:
        """Every part's."""
        for part in self.parts:
            part.prepare(context)

    def loss(self, prediction: Prediction, targets: list[Target], corpus: AnyCorpus) -> Tensor:
        """Sum of the parts' losses."""
        held = self._held
        if held is None or held[0] is not targets:
            self._held = held = (targets,
                                 [[target["parts"][i] for target in targets] for i in range(len(self.parts))])
        losses = [part.loss(prediction, own, corpus) for part, own in zip(self.parts, held[1], strict=True)]
        return torch.stack(losses).sum(0)

    def layout(self, target: Target, length: int, corpus: AnyCorpus) -> Layout:
        """The parts', laid over each other."""
        return merged([part.layout(own, length, corpus)
                       for part, own in zip(self.parts, target["parts"], strict=True)])

    def tag_counts(self) -> Syntax | None:
        """Of the part that counts tags."""
        return next((counts for part in self.parts if (counts := part.tag_counts()) is not None), None)

    def constituents(self) -> Constituents | None:
        """Of the part that asks for phrases."""
        return next((found for part in self.parts if (found := part.constituents()) is not None), None)

    def check_file(self, corpus: TokenizedCorpus, generator: torch.Generator) -> None:
        """Every part's."""
        super().check_file(corpus, generator)
        for part in self.parts:
            part.check_file(corpus, generator)

    def required_conditions(self) -> list[str]:
        """Every part's."""
        return [name for part in self.parts for name in part.required_conditions()]

    def condition(self, target: Target, positions: int) -> list[list[str]]:
        """The parts', one after the other."""
        return [row for part, own in zip(self.parts, target["parts"], strict=True)
                for row in part.condition(own, positions)]

    def score(self, words: list[str], target: Target) -> dict[str, float]:
        """`success`: product of the parts' success; each part's under its name (a second of a name
        gets its number)."""
        each = {label: part.score(words, own)["success"]
                for label, part, own in zip(self.labels, self.parts, target["parts"], strict=True)}
        product = 1.0
        for value in each.values():
            product *= value
        return {"success": product, **each}

    def oracle(self, target: Target) -> str:
        """The parts', joined."""
        return "&".join(part.oracle(own) for part, own in zip(self.parts, target["parts"], strict=True))

    def code(self, target: Target) -> list[str]:
        """The parts' codes, each behind its name."""
        return [symbol for part, own in zip(self.parts, target["parts"], strict=True)
                for symbol in (f"<{part.name}>", *part.code(own))]
