"""What observers of a run are told, one type an event. Nothing of this is kept: events.jsonl has
`search.records.events`.

Every event carries the engine's summary, so that an observer does no arithmetic; what is said before there
is an engine has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, final

from search.records.events import Summary


@final
class RunStarted(Summary):
    """A session begins. `run`: the folder or URI."""

    event: Literal["run_started"]
    run: str
    name: str
    resumed: bool
    groups: int


@final
class PrepareProgress(Summary):
    """How far something is that trials share, or what is done with the front when the search
    is over (`after`): 0 to 1. `left`: seconds that it still takes, at the pace so far."""

    event: Literal["prepare"]
    stage: str
    progress: float
    detail: NotRequired[str | None]
    after: NotRequired[bool]
    left: NotRequired[float | None]


@final
class WarmStarted(Summary):
    """What was learned from the run `source`: how many trials, and how many of its front are tried first."""

    event: Literal["warm_start"]
    source: str
    learned: int
    tried_first: int


@final
class TrialStarted(Summary):
    """A point was proposed, in so many seconds."""

    event: Literal["trial_started"]
    trial: int
    values: Mapping[str, Any]
    tag: str | None
    proposal_seconds: float


@final
class RungMeasured(Summary):
    """A trial goes on after rung `rung` (0 = first) `of` all; `steps`: training steps so far, and
    of a whole trial."""

    event: Literal["rung"]
    trial: int
    rung: int
    of: int
    steps: list[int | None]
    metrics: Mapping[str, Any]


@final
class TrialFinished(Summary):
    """A trial has ended. `seconds` that it held its workers."""

    event: Literal["trial_finished"]
    trial: int
    state: str
    rung: int
    metrics: Mapping[str, Any]
    reason: str | None
    values: Mapping[str, Any]
    seconds: float


@final
class FrontChanged(Summary):
    """The members of the front, now that this trial has ended."""

    event: Literal["front"]
    trial: int
    members: list[int]


@final
class WarningRaised(Summary):
    """A line for the user."""

    event: Literal["warning"]
    message: str


@final
class RunFinished(Summary):
    """The search is over; `state`: finished or failed."""

    event: Literal["run_finished"]
    state: str
    run: str


EngineEvent = (RunStarted | PrepareProgress | WarmStarted | TrialStarted | RungMeasured | TrialFinished
               | FrontChanged | WarningRaised | RunFinished)
