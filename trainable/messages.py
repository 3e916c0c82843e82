"""Every message between driver, broker, slots and workers: who says it to whom, and what its keys mean.

    driver -> slot      `Work`, laid out in the broker's slot queue; the slot answers each with an `Outcome`
    slot -> broker      a lease is asked for and answered by a `Lease`; the group then takes commands
    slot -> worker      a `Command`, by way of the broker; the worker's `Reply` comes back, or the broker's
    job -> driver       a job gets a payload and yields `JobEvent`s, which travel in replies and outcomes

Messages are plain dicts, which Ray, torch.distributed and JSON carry as they are; the types say what is in
them. A reader passes over keys that it does not know.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, final


# ---- what jobs are called with
@final
class SharedPaths(TypedDict):
    """Folders of what a trial shares with others; `teacher` may be a model hub's name, and `reference` is
    what the base takes, as text (`trainable.metrics.reference`)."""

    corpus: str
    teacher: str
    base: str
    supernet: NotRequired[str]
    reference: NotRequired[str]


@final
class SharedRequest(TypedDict):
    """What a trial needs to have made what it shares: the cache's folder, and by kind the settings that
    decide about it."""

    cache: str
    settings: dict[str, str]


@final
class PreparePayload(TypedDict):
    """For the jobs `corpus`, `teacher`, `base` and `supernet`. `config`: a dumped TrialConfig; `corpus`: its
    folder, for the other three; `base`: its folder, for the last; `borrow`: the base may use processors
    whose groups have nothing to do."""

    config: dict[str, Any]
    cache: str
    corpus: NotRequired[str]
    base: NotRequired[str]
    borrow: NotRequired[bool]


@final
class TrialPayload(TypedDict):
    """For the job `trial`. `prepared`: folders by kind, filled in by the slot where `shared` says how;
    `rungs`: training steps, ascending; `values`: the point; `proposed`: when, in Unix seconds; `keep`:
    where the artifact is to lie at last, when nodes share no folder (the depot takes it out)."""

    config: dict[str, Any]
    prepared: dict[str, str]
    shared: NotRequired[SharedRequest]
    rungs: list[int]
    folder: str
    number: int
    values: dict[str, Any]
    proposed: NotRequired[float]
    keep: NotRequired[str]


@final
class RemeasurePayload(TypedDict):
    """For the job `remeasure`: an exported model, measured with fresh noise."""

    artifact: str
    prepared: SharedPaths
    seed: int


@final
class SensitivityPayload(TypedDict):
    """For the job `sensitivity`. `choices`: part of the model -> numbers of bits that it may have; `corpus`
    and `base`: their folders."""

    config: dict[str, Any]
    cache: str
    corpus: str
    base: str
    choices: dict[str, list[int]]


Payload = PreparePayload | TrialPayload | RemeasurePayload | SensitivityPayload


# ---- what jobs yield
@final
class Progress(TypedDict):
    """Of a prepare job: the share that is done; the last one has the folder that was made, and facts
    about it beside; a base's also `reference` (see `SharedPaths`)."""

    progress: float
    detail: NotRequired[str]
    path: NotRequired[str]
    reference: NotRequired[str]


@final
class Ready(TypedDict):
    """Of a trial: its first training step is next."""

    ready: Literal[True]


@final
class Notice(TypedDict):
    """A line for the user that costs the trial nothing."""

    notice: str


@final
class RungResult(TypedDict, total=False):
    """Of a trial at a rung (0 = first), or of `remeasure`, which has none: metrics by name stand
    beside these keys.

    `steps`: trained so far; `final`: at the top rung; `artifact`: folder of the exported model, at the top
    rung; `start_seconds`: from the proposal to the first training step, added by the slot. Ranks other than
    0 tell the rung alone.
    """

    rung: int
    steps: int
    final: bool
    artifact: str
    device: str
    start_seconds: float


JobEvent = Progress | Ready | Notice | RungResult


# ---- what workers are told, and answer
@final
class StartJob(TypedDict):
    """Open a job; one that is open is closed first. `token` names this opening. `seq` is the broker's
    number of a command, by which it is answered."""

    op: Literal["start"]
    job: str
    payload: Payload
    token: NotRequired[str]
    seq: NotRequired[int]


@final
class NextEvent(TypedDict):
    """Compute the open job's next event."""

    op: Literal["next"]
    seq: NotRequired[int]


@final
class CloseJob(TypedDict):
    """Abandon the open job; with a `token`, only the one that was opened with it: nobody waits for the
    answer, and what is sent afterwards may overtake it."""

    op: Literal["close"]
    token: NotRequired[str]
    seq: NotRequired[int]


@final
class ExitWorker(TypedDict):
    """Leave the loop. Nobody answers it."""

    op: Literal["exit"]


Command = StartJob | NextEvent | CloseJob | ExitWorker


@final
class EventReply(TypedDict):
    """The event that was asked for."""

    event: JobEvent


@final
class EndReply(TypedDict):
    """The job has no more events."""

    end: Literal[True]


@final
class DoneReply(TypedDict):
    """The job was opened, or closed."""

    ok: Literal[True]


@final
class ErrorReply(TypedDict):
    """The job raised, and is closed. `user`: a `UserError`; `disk`: the disk is to blame, and not the job."""

    error: str
    traceback: str
    user: bool
    disk: bool


WorkerReply = EventReply | EndReply | DoneReply | ErrorReply


@final
class GroupDied(TypedDict):
    """The broker's: the group is gone, or is another's."""

    died: str


@final
class Terminated(TypedDict):
    """The broker's: the job was ended from outside, for this reason."""

    terminated: str


Reply = EventReply | EndReply | DoneReply | ErrorReply | GroupDied | Terminated


# ---- what the broker says of groups
@final
class Leased(TypedDict):
    """The group that the owner holds from now on."""

    group: str


@final
class LeaseRefused(TypedDict):
    """No group can be had."""

    broken: str


Lease = Leased | LeaseRefused


@final
class WorkerInfo(TypedDict):
    """One worker of a group: its process, the handle of its actor, its node and the CPUs that are its own."""

    pid: int
    actor: Any
    node: str
    cpus: int


@final
class GroupInfo(TypedDict):
    """A living group; `workers` by rank."""

    owner: str | None
    ready: bool
    workers: dict[int, WorkerInfo]


# ---- what slots are told, and answer
@final
class TrialWork(TypedDict):
    """Begin a trial: lease a group as `owner`, and go to the first rung."""

    op: Literal["trial"]
    number: int
    owner: str
    payload: TrialPayload


@final
class NextRung(TypedDict):
    """Go on to the next rung of the same trial."""

    op: Literal["next"]


@final
class LeaveSlot(TypedDict):
    """There is nothing more to do."""

    op: Literal["leave"]


@final
class TrialBlamed(TypedDict):
    """The slot queue's own: the trial has cost the slot too many processes."""

    op: Literal["blamed"]
    number: int


Work = TrialWork | NextRung | LeaveSlot | TrialBlamed


@final
class RungOutcome(TypedDict):
    """A rung was measured. `seconds` of work so far; `notices` since the last rung."""

    event: RungResult
    notices: list[str]
    number: int
    seconds: float


class SharedWord(TypedDict, total=False):
    """Of a trial that makes what it shares: how far a `kind` is; at the end `seconds` with `path` and
    facts, or `failed`."""

    kind: str
    progress: float
    detail: str
    seconds: float
    path: str
    reference: str
    failed: str


@final
class SharedOutcome(TypedDict):
    """The trial makes what it shares with others."""

    shared: SharedWord
    number: int
    seconds: float


@final
class FailedOutcome(TypedDict):
    """The trial has ended without its result."""

    failed: str
    traceback: str
    number: int
    seconds: float


@final
class BrokenOutcome(TypedDict):
    """There are no workers any more, for any trial."""

    broken: str


Outcome = RungOutcome | SharedOutcome | FailedOutcome | BrokenOutcome


# ---- what a worker starts with
@final
class DepotSettings(TypedDict):
    """Of `trainable.storage.depot.Depot`: the storage's URI and the driver's folder for it."""

    uri: str
    root: str


@final
class WorkerConfig(TypedDict):
    """Of the loop of a worker: its group, the broker's actor, the import path of the job table, CPUs a
    worker, the driver's working directory (for relative paths), and its depot where nodes share no folder."""

    group: str
    broker: Any
    jobs: str
    cpus: float
    folder: str
    store: DepotSettings | None
