"""What a metric is, and what it may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from spaces.config import TrialConfig
from trainable import registry
from trainable.control.base import ControlTask, Target
from trainable.control.generating import Controlled
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.process import Process, Sampling, Traced
from trainable.models.backbone import Backbone

if TYPE_CHECKING:
    from trainable.scoring.teacher import Teacher

Direction = Literal["minimize", "maximize"]
Stage = Literal["rung", "final"]


class Runnable(Protocol):
    """An exported model, loaded and ready to generate."""

    @property
    def model(self) -> Backbone:
        """The network."""

    def generate(self, n: int, generator: torch.Generator) -> Tensor:
        """[n, L] word ids, sampled as the artifact's own settings say."""


class Yardstick(NamedTuple):
    """A call that generates `batch` texts, and the milliseconds a text that it counts as."""

    call: Callable[[], object]
    batch: int
    ms: float


class Measurable(Protocol):
    """One model at one rung, with everything that measuring it needs."""

    config: TrialConfig
    model: Backbone
    process: Process
    """The diffusion process of `model`."""
    sampling: Sampling
    """`model` under the trial's sampling settings."""
    corpus: TokenizedCorpus
    teacher: Teacher
    share: float
    """Share of the configured sample counts that is used at this rung."""
    artifact: Path | None
    """The exported model; at the final stage only."""
    base_artifact: Path | None
    """The exported base that trials start from; at the final stage only."""
    facts: dict[str, Any]
    """Known without measuring: `train_seconds`, `trainable_params`, `total_params`, `exported_bytes`."""
    notes: dict[str, str]
    """Texts that a metric leaves for the row, such as which oracle scored."""
    cache: dict
    """Read-only objects that outlive the trial. Keys are tuples that start with the metric's name."""
    device: torch.device

    def samples(self) -> list[list[str]]:
        """Generated sentences as words: `config.evaluation.samples * share` of them, generated once
        per measurement."""

    def traced(self) -> Traced:
        """What texts cost by count (`Sampling.traced`), counted once per measurement."""

    def passes(self) -> Tensor:
        """[n] forward passes of each text of `samples()`, where any metric has read them; else of those that
        `traced` counted."""

    def controlled(self, asked: Sequence[tuple[ControlTask, Sequence[Target]]]) -> list[Controlled]:
        """For each task one sentence per target, generated under guidance, and the passes that it took."""

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh generator, the same for every trial of a run and every call, so that trials are paired."""

    def load(self, artifact: Path) -> Runnable:
        """An exported model, on `device`."""

    def yardstick(self) -> Yardstick | None:
        """What latencies are told by, where the run has one."""

    def pause(self) -> None:
        """Wait while somebody else takes times. For between two calls of some length."""

    def alone(self) -> AbstractContextManager[bool]:
        """Times are taken inside; whether nothing else of this user computes on the node meanwhile."""


class Metric(ABC):
    """One measured quantity. A subclass states its name, unit, better direction and the stage
    it is measured at."""

    name: ClassVar[str]
    unit: ClassVar[str]
    direction: ClassVar[Direction]
    stage: ClassVar[Stage] = "rung"
    proxy: ClassVar[str | None] = None
    """A metric of stage `rung` and of the same direction that stands in for this one below the top rung."""
    cheap: ClassVar[bool] = False
    """Measured in every trial, asked for or not."""
    asked: ClassVar[bool] = False
    """Measured only where it is named, not where `evaluation.metrics` is null."""
    along: ClassVar[str | None] = None
    """A metric beside which this one costs little: it is measured wherever that one is."""
    ideal: ClassVar[float | None] = None
    """The best value that any model can have, where there is one: a search expects no gain beyond it."""
    Params: ClassVar[type[registry.Params]] = registry.Params

    def __init__(self, params: registry.Params):
        self.params = params

    @abstractmethod
    def measure(self, m: Measurable) -> dict[str, float]:
        """The value under `name`, further columns under `name_...`; `name_se` is the standard
        error of the value.

        An empty dict where the metric cannot be told yet at this rung.
        """


def scaled(count: int, share: float, least: int = 1) -> int:
    """A configured count at a rung that uses `share` of it."""
    return max(least, round(count * share))


def heldout_words(corpus: TokenizedCorpus, rows: Sequence[int]) -> list[list[str]]:
    """The held-out sentences `rows` as the model could have written them: words outside the
    vocabulary are UNK."""
    ids = corpus.ids("valid")
    return [corpus.decode(ids[row]) for row in rows]


def heldout_rows(corpus: TokenizedCorpus, count: int, generator: torch.Generator) -> list[int]:
    """Up to `count` distinct held-out row numbers in random order."""
    return torch.randperm(len(corpus.ids("valid")), generator=generator)[:count].tolist()
