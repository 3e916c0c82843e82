"""What the engine asks of its parts: the space, the study that proposes, the records that keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from search.pareto.front import Front
from search.records.events import OtherEvent, RecordedEvent, State
from spaces.config import HardwareConfig, TrialConfig
from spaces.form import BudgetConfig
from spaces.objectives import Constraint, Objective


class SearchSpace(Protocol):
    """What the engine needs to know of a space; `spaces.schema.Space` is one."""

    @property
    def objectives(self) -> Sequence[Objective]:
        """What a trial is judged by."""

    @property
    def constraints(self) -> Sequence[Constraint]:
        """Bounds on metrics."""

    @property
    def hardware(self) -> HardwareConfig:
        """What one trial holds while it runs."""

    @property
    def budget(self) -> BudgetConfig:
        """When the search ends."""

    @property
    def rungs(self) -> Sequence[int]:
        """Optimizer steps at which a trial is measured."""

    @property
    def box(self) -> Mapping[str, Sequence[float]]:
        """Objective to [best, worst], where that is given."""

    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """The trial at a point."""

    def size(self) -> int | None:
        """Number of points."""


class Proposed(Protocol):
    """A point to try, as `search.study.searcher.Proposal`."""

    @property
    def number(self) -> int:
        """The trial's."""

    @property
    def values(self) -> dict[str, Any]:
        """The active dimensions by dotted path."""

    @property
    def tag(self) -> str | None:
        """What it was enqueued with."""

    @property
    def again(self) -> bool:
        """Whether a trial of this point was stopped early, so that this one is to run to its end."""


class Study(Protocol):
    """Ask and tell; `search.study` has two, `StudySearcher` and `DeterministicSearcher`."""

    blocked: bool

    @property
    def exhausted(self) -> bool:
        """Whether every point of a finite space was proposed."""

    def ask(self) -> Proposed | None:
        """The next point to try."""

    def enqueue(self, values: Mapping[str, Any], tag: str | None = None, again: bool = False) -> bool:
        """Have a point proposed before any other; whether it was added."""

    def learn(self, values: Mapping[str, Any], state: State, metrics: Mapping[str, Any],
              rungs: Iterable[tuple[float, Mapping[str, Any]]] = ()) -> None:
        """Add a result from elsewhere."""

    def progress(self, number: int, rungs: Iterable[tuple[float, Mapping[str, Any]]]) -> None:
        """Note what a running trial has measured so far."""

    def tell(self, number: int, state: State, metrics: Mapping[str, Any] | None = None,
             reason: str | None = None, rungs: Iterable[tuple[float, Mapping[str, Any]]] = ()) -> State:
        """Record how a trial ended; the state that the study now holds."""


class Records(Protocol):
    """Where a run is written down; `search.records` has two, `RunFolder` and `MemoryRecords`."""

    @property
    def meta(self) -> dict[str, Any]:
        """What is known of the run as a whole."""

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row."""

    def event(self, event: OtherEvent, sync: bool = True) -> None:
        """Add an event that is no row."""

    def events(self) -> Iterator[RecordedEvent]:
        """All entries in order."""

    def rows(self) -> list[dict[str, Any]]:
        """The rows in order."""

    def update(self, **changes: Any) -> dict[str, Any]:
        """Set keys of `meta` and return the whole."""

    def write_front(self, front: Front) -> None:
        """Keep the front as it now is."""
