"""Decides what happens in a run, and writes it down first: no Ray, no torch, one thread.

Every result is appended to the run folder *before* the study hears of it, so that after a kill at any point the records
hold whatever the study knows. The engine counts the budget, asks the scheduler, and tells the observer.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from search.front import Front
from search.front_box import Box, choose_box
from search.objectives import CONFIG, fault, measured
from spaces.config import HardwareConfig, TrialConfig
from spaces.errors import UserError
from spaces.objectives import Constraint, Objective

Row = dict[str, Any]
Event = dict[str, Any]
Observer = Callable[[Event], None]
Decision = Literal["continue", "stop"]
ENDED = ("complete", "stopped", "failed")
_CONTROL = ("rung", "steps", "final", "device", "seconds")


class Plan(Protocol):
    """What the engine needs to know of a space; `spaces.schema.Space` is one."""

    objectives: Sequence[Objective]
    constraints: Sequence[Constraint]
    hardware: HardwareConfig
    budget: Any
    rungs: Sequence[int]
    box: Mapping[str, Sequence[float]]

    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """The trial at a point."""

    def size(self) -> int | None:
        """Number of points."""


@dataclass
class Live:
    """A trial that runs."""

    number: int
    values: dict[str, Any]
    config: TrialConfig
    tag: str | None
    started: float
    seconds: float = 0.0
    rung: int = -1
    facts: dict[str, Any] = field(default_factory=dict)


class Engine:
    """One run's decisions. `ask`, then `report` for each rung or `fail`; each of the three may be called at any time."""

    def __init__(self, space: Plan, study, scheduler, folder, *, observer: Observer | None = None, versions: str = "",
                 spent: float = 0.0, groups: int = 1, keep: Callable[[int, str], str] | None = None,
                 clock: Callable[[], float] = time.monotonic):
        """`study`: a StudySearcher; `scheduler`: Halving or NoHalving; `folder`: a RunFolder, whose rows are taken over;
        `spent`: seconds that earlier sessions of this run took; `groups`: trials that can run at once; `keep`: moves the
        artifact of a complete trial to its place and returns what is recorded of it."""
        self.space, self.study, self.scheduler, self.folder = space, study, scheduler, folder
        self.observer, self.versions, self.groups, self.clock = observer or (lambda event: None), versions, groups, clock
        self.keep = keep or (lambda number, artifact: artifact)
        self.begun = clock() - spent
        self.live: dict[int, Live] = {}
        self.rows: list[Row] = list(folder.rows())
        self.ended = {row["trial"]: row["state"] for row in self.rows if row["state"] in ENDED}
        self.durations = {row["trial"]: row["seconds"] for row in self.rows if row["state"] in ENDED}
        self.busy = sum(self.durations.values())
        self.exhausted = False
        self._standing: tuple[Front, dict[str, Any]] | None = None
        corners = folder.meta.get("box")
        self.box = Box.of(corners, space.objectives) if corners else None
        self._choose_box()

    # ---- what Tune asks
    def ask(self) -> Live | None:
        """The next trial, or None when the budget or the space is used up. A point that makes no legal trial is recorded
        as failed, counts, and the next one is taken."""
        while not self.over:
            proposal = self.study.ask()
            if proposal is None:
                self.exhausted = True
                return None
            try:
                config = self.space.config(proposal.values)
            except UserError as error:
                trial = Live(proposal.number, proposal.values, TrialConfig(), proposal.tag, self.clock())
                self._close(trial, "failed", {}, str(error))
                continue
            trial = Live(proposal.number, proposal.values, config, proposal.tag, self.clock())
            self.live[trial.number] = trial
            if trial.tag:  # a reference arm: it is compared with, not weeded out
                self.scheduler.protected.add(trial.number)
            self._emit("trial_started", trial=trial.number, values=trial.values, tag=trial.tag)
            return trial
        return None

    def report(self, number: int, event: Event, seconds: float | None = None) -> Decision:
        """Take one rung's measurements and decide. A rung that is known already (the trial was restarted) changes nothing.

        `seconds`: how long the trial has held its workers; the time since it was asked for when not given.
        """
        trial = self.live.get(number)
        if trial is None:
            return "stop"
        trial.seconds = self.clock() - trial.started if seconds is None else seconds
        if event["rung"] <= trial.rung:
            return "continue"
        metrics = {name: value for name, value in event.items() if name not in _CONTROL}
        final = bool(event.get("final"))
        wrong = self._fault(metrics, final)
        trial.rung, trial.facts = event["rung"], {"fidelity": event.get("steps"), "device": event.get("device")}
        if wrong:
            return self._close(trial, "failed", metrics, f"{wrong} at rung {trial.rung}")
        if final:
            if metrics.get("artifact"):
                metrics["artifact"] = self.keep(number, metrics["artifact"])
            return self._close(trial, "complete", metrics)
        if self.scheduler.report(number, trial.rung, metrics) == "stop":
            return self._close(trial, "stopped", metrics, f"dominated at rung {trial.rung}")
        if self._time_left() <= 0:
            return self._close(trial, "stopped", metrics, "the time budget was used up")
        self._append(self._row(trial, "rung", metrics))
        self._emit("rung", trial=number, rung=trial.rung, of=len(self.space.rungs), metrics=metrics)
        return "continue"

    def fail(self, number: int, reason: str, trace: str = "", seconds: float | None = None) -> None:
        """A trial ended without its result. Nothing happens when it has ended already."""
        trial = self.live.get(number)
        if trial is not None:
            trial.seconds = self.clock() - trial.started if seconds is None else seconds
            trial.rung = min(trial.rung + 1, len(self.space.rungs) - 1)  # the rung that it was on
            self._close(trial, "failed", {}, reason, trace)

    def amend(self, number: int, more: Mapping[str, Any]) -> None:
        """Add measurements to a complete trial: its last row is recorded again, with them."""
        row = next(row for row in reversed(self.rows) if row["trial"] == number and row["state"] == "complete")
        self._append({**row, **more, "time": time.time()})

    @property
    def over(self) -> bool:
        """No further trial is to be started."""
        return self.exhausted or self._time_left() <= 0 or len(self.ended) + len(self.live) >= self.limit

    @property
    def limit(self) -> float:
        """Trials at most: the budget's, or the points of the space; infinite when only the time is limited."""
        return min(self.space.budget.trials or math.inf, self.space.size() or math.inf)

    # ---- what is told
    @property
    def front(self) -> Front:
        """The front of everything recorded so far."""
        return self._stand()[0]

    def _stand(self) -> tuple[Front, dict[str, Any]]:
        """The front and its figures, computed anew after each complete trial."""
        if self._standing is None:
            front = Front.from_rows(self.rows, self.space.objectives, self.space.constraints)
            best = {item.metric: front.best(item.metric) for item in self.space.objectives}
            self._standing = front, {
                "front_size": len(front),
                "hypervolume": None if self.box is None else front.hypervolume(self.box),
                "best": {metric: measured(row, metric) for metric, row in best.items() if row is not None}}
        return self._standing

    @property
    def members(self) -> list[int]:
        """Trials on the front."""
        return [row["trial"] for row in self.front]

    @property
    def elapsed(self) -> float:
        """Seconds that the run took so far, earlier sessions included."""
        return self.clock() - self.begun

    def add_busy(self, seconds: float) -> None:
        """Account for time that a worker group spent outside trials."""
        self.busy += seconds

    def summary(self) -> dict[str, Any]:
        """Counts, front, best values, time and cost; part of every event."""
        states = list(self.ended.values())
        hours = (self.busy + sum(trial.seconds for trial in list(self.live.values()))) / 3600
        hardware = self.space.hardware
        return {
            "running": len(self.live), "complete": states.count("complete"), "stopped": states.count("stopped"),
            "failed": states.count("failed"), "trials": int(self.limit) if math.isfinite(self.limit) else None,
            **self._stand()[1],
            "elapsed": self.elapsed, "eta": self._eta(),
            "cpu_hours": hours * hardware.workers * hardware.cpus,
            "gpu_hours": hours * hardware.workers * hardware.gpus,
        }

    def emit(self, event: str, **more: Any) -> None:
        """Tell the observer something, with the summary. May be called from any thread."""
        self._emit(event, **more)

    # ---- inside
    def _fault(self, metrics: Row, final: bool) -> str | None:
        """Why measurements cannot stand: below the top rung, objectives may be missing but not be NaN or infinite."""
        if final:
            return fault(metrics, self.space.objectives, self.space.constraints)
        present = [objective for objective in self.space.objectives if objective.metric in metrics]
        return fault(metrics, present)

    def _close(self, trial: Live, state: str, metrics: Row, reason: str | None = None, trace: str = "") -> Decision:
        self.live.pop(trial.number, None)
        row = self._row(trial, state, metrics, reason)
        self._append(row)
        self.ended[trial.number] = state
        self.durations[trial.number] = row["seconds"]
        self.busy += row["seconds"]
        self.study.tell(trial.number, state, metrics or None, reason)
        if trace:
            self.folder.event({"event": "traceback", "trial": trial.number, "traceback": trace})
        self._emit("trial_finished", trial=trial.number, state=state, rung=trial.rung, metrics=metrics, reason=reason,
                   values=trial.values, seconds=row["seconds"])
        if state == "complete" and trial.number in self.members:
            self.folder.write_front(self.front)
            self._emit("front", trial=trial.number, members=self.members)
        return "stop"

    def _row(self, trial: Live, state: str, metrics: Row, reason: str | None = None) -> Row:
        searched = {CONFIG + path: value for path, value in trial.values.items()}
        return {"trial": trial.number, "rung": max(trial.rung, 0), "state": state, "tag": trial.tag,
                "fidelity": trial.facts.get("fidelity") or 0, **searched, **metrics,
                "seconds": trial.seconds, "device": trial.facts.get("device"),
                "seed": trial.config.seed, "versions": self.versions, "reason": reason, "time": time.time()}

    def _append(self, row: Row) -> None:
        self.folder.append(row)
        self.rows.append(row)
        if row["state"] == "complete":
            self._standing = None
            self._choose_box()

    def _choose_box(self) -> None:
        """Fix the hypervolume's box once there are results to take it from; the run folder keeps it."""
        if self.box is None:
            first = max(2, min(8, (self.space.budget.trials or 32) // 4))
            self.box = choose_box(self.rows, self.space.objectives, first=first, given=self.space.box)
            if self.box is not None:
                self.folder.update(box=self.box.corners())

    def _emit(self, event: str, **more: Any) -> None:
        self.observer({**self.summary(), **more, "event": event})

    def _time_left(self) -> float:
        limit = self.space.budget.time
        return math.inf if limit is None else limit - self.elapsed

    def _eta(self) -> float | None:
        """Seconds to the end of the trials: those that remain at the pace so far, or what is left of the time."""
        left = self._time_left()
        if self.durations:
            remaining = self.limit - len(self.ended)
            left = min(left, statistics.mean(self.durations.values()) * remaining / self.groups)
        return max(0.0, left) if math.isfinite(left) else None
