"""What events.jsonl holds, one type an event: keys, units, and who reads them. The file is
the truth about a run.

Every entry has `event` and, but in memory, `time` (Unix seconds, for people) and `clock` (seconds since
the session's writer took the run, by a clock that nobody sets: `spans`). A reader passes over events and keys
that it does not know, and does without those that older runs lack; no key changes its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict, final

State = Literal["complete", "stopped", "failed"]
"""How a trial ends."""


class Entry(TypedDict):
    """What every entry may have."""

    time: NotRequired[float]
    clock: NotRequired[float]


class Studied(Entry):
    """Of an event that follows a change of the study. `journal`: bytes of the study's journal then."""

    journal: NotRequired[int]


class Summary(TypedDict, total=False):
    """Trials by state, the front, time in seconds and cost. `trials`: how many there can be;
    `hypervolume`: share of the box, None before there is one; `best`: objective -> value; `ended_by`:
    the limit that is reached; `cost`: see `search.engine.cost.Ledger.breakdown`;
    `cpu_hours`, `gpu_hours`: of all that was held, as in `cost` (older runs: without its overhead)."""

    running: int
    complete: int
    stopped: int
    failed: int
    trials: int | None
    front_size: int
    hypervolume: float | None
    best: dict[str, float]
    elapsed: float
    eta: float | None
    ended_by: str | None
    cpu_hours: float
    gpu_hours: float
    cost: dict[str, Any]


@final
class RowEvent(Entry):
    """A trial at a rung, or at its end. Beside these keys stand the point (`config.PATH`) and
    the metrics by name.

    `state`: `rung` while it goes on; `fidelity`: training steps; `seconds` that the trial has held its
    workers; `seed` of the trial; `device`: who computed; `reason` why it ended.
    """

    event: Literal["row"]
    trial: int
    rung: NotRequired[int | None]
    state: Literal["rung", "complete", "stopped", "failed"]
    tag: NotRequired[str | None]
    fidelity: NotRequired[int]
    seconds: NotRequired[float]
    device: NotRequired[str | None]
    seed: NotRequired[int]
    versions: NotRequired[str]
    reason: NotRequired[str | None]


@final
class RunStartedEvent(Studied):
    """A session begins. `run`: the folder or URI; `groups`: trials that can run at once; `at_most`:
    kind -> how many of it the space may have made, where that is more than one."""

    event: Literal["run_started"]
    address: str
    run: str
    name: str
    resumed: bool
    groups: NotRequired[int]
    at_most: NotRequired[dict[str, int]]


@final
class RunEndedEvent(Entry, Summary):
    """A session ends: finished, interrupted or failed, and in one line why."""

    event: Literal["run_ended"]
    state: str
    reason: NotRequired[str]


@final
class PrepareEvent(Entry):
    """Something that trials share was made, or was there: a corpus, a teacher, a base, what its parts lose
    when they are rounded (`sensitivity`). Facts about it stand beside."""

    event: Literal["prepare"]
    stage: str
    path: NotRequired[str]
    progress: NotRequired[float]
    detail: NotRequired[str]
    seconds: NotRequired[float]
    ahead_seconds: NotRequired[float]
    """That it took before there were workers, in a process of its own; `seconds` are the workers'."""


@final
class AskEvent(Studied):
    """The study proposed a point."""

    event: Literal["ask"]
    trial: int
    values: Mapping[str, Any]


@final
class EnqueueEvent(Studied):
    """A point was put before all others. `again`: though the study has it already."""

    event: Literal["enqueue"]
    values: Mapping[str, Any]
    tag: str | None
    again: NotRequired[bool]


@final
class LearnEvent(Studied):
    """A result of another run was taught to the study. `rungs`: [steps, metrics] each, lowest first."""

    event: Literal["learn"]
    values: Mapping[str, Any]
    state: State
    metrics: Mapping[str, Any]
    rungs: NotRequired[list[Any]]


@final
class WarningEvent(Entry):
    """A warning: `message`, or `detail` for one about the records themselves."""

    event: Literal["warning"]
    message: NotRequired[str]
    detail: NotRequired[str]


@final
class TracebackEvent(Entry):
    """Why a trial failed, in the worker's words."""

    event: Literal["traceback"]
    trial: int
    traceback: str


OtherEvent = (RunStartedEvent | RunEndedEvent | PrepareEvent | AskEvent | EnqueueEvent | LearnEvent
              | WarningEvent | TracebackEvent)
RecordedEvent = (RowEvent | RunStartedEvent | RunEndedEvent | PrepareEvent | AskEvent | EnqueueEvent
                 | LearnEvent | WarningEvent | TracebackEvent)
