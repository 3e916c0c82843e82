"""Decides what happens in a run, and writes it down first: no Ray, no torch, one thread.

Every result is appended to the run folder *before* the study hears of it, so that after a kill at any
point the records hold whatever the study knows. The engine counts the budget, asks the scheduler,
and tells the observer.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from search.engine import budget as limits
from search.engine.cost import ENDED, Ledger, Rate
from search.engine.events import EngineEvent
from search.engine.incumbents import Incumbents
from search.engine.protocols import Records, SearchSpace, Study
from search.pareto.front import Front
from search.pareto.objectives import CONFIG, fault
from search.pareto.reference_box import Box, choose_box
from search.records.events import State, Summary
from search.schedulers.successive_halving import Scheduler
from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.messages import RungResult

Row = dict[str, Any]
Observer = Callable[[EngineEvent], None]
Decision = Literal["continue", "stop"]
_CONTROL = ("rung", "steps", "final", "device", "seconds")


@dataclass
class RunningTrial:
    """A trial that runs."""

    number: int
    values: dict[str, Any]
    config: TrialConfig
    tag: str | None
    started: float
    seconds: float = 0.0
    last_heartbeat: float = 0.0
    rung: int = -1
    facts: dict[str, Any] = field(default_factory=dict)
    rungs: list[tuple[float, dict[str, Any]]] = field(default_factory=list)


class Engine:
    """One run's decisions. `ask`, then `report` for each rung or `fail`; each of the three may be
    called at any time."""

    def __init__(self, space: SearchSpace, study: Study, scheduler: Scheduler, folder: Records,
                 *, observer: Observer | None = None, versions: str = "", spent: float = 0.0, groups: int = 1,
                 keep: Callable[[int, str], str] | None = None, clock: Callable[[], float] = time.monotonic):
        """`folder`: its rows are taken over; `spent`: seconds that earlier sessions of this run took,
        where its events do not tell; `groups`: trials that can run at once; `keep`: moves the artifact of
        a complete trial to its place and returns what is recorded of it."""
        self.space, self.study, self.scheduler, self.folder = space, study, scheduler, folder
        self.observer, self.versions, self.groups, self.clock = (observer or (lambda event: None), versions,
                                                                 groups, clock)
        self.keep = keep or (lambda number, artifact: artifact)
        self._size = space.size() or math.inf
        self.ledger, self.rate = (Ledger.from_events(folder.events()),
                                  Rate.of(space.hardware, space.budget.price))
        self._held = max(self.ledger.held, spent * groups)
        self._begun, self._spent = clock(), max(self.ledger.elapsed, spent)
        self.live: dict[int, RunningTrial] = {}
        self.recorded = 0  # rows, earlier sessions included
        self.ended: dict[int, str] = {}
        self.counts: Counter[str] = Counter()
        self.exhausted = False
        self.box: Box | None = None
        self.incumbents = Incumbents(space.objectives, space.constraints)
        self.no_improvement = limits.NoImprovement(space.budget.gain)
        self._load_rows(folder.rows())
        self.exhausted = study.exhausted

    def _load_rows(self, rows: list[Row]) -> None:
        """Earlier sessions' rows, in order."""
        for row in rows:
            self._register(row)
        corners = self.folder.meta.get("box")
        if self.box is None and corners:
            self.box = Box.of(corners, self.space.objectives)
        self._choose_box()

    # ---- what a driver asks
    def ask(self) -> RunningTrial | None:
        """The next trial. None when the budget or the space is used up, and when the search has to
        wait for a result (`over` tells which). A point that makes no legal trial is recorded as failed,
        counts, and the next one is taken."""
        while not self.over:
            asked = self.clock()
            proposal = self.study.ask()
            if proposal is None:
                self.exhausted = not self.study.blocked
                return None
            self.folder.event({"event": "ask", "trial": proposal.number, "values": proposal.values},
                              sync=False)
            try:
                config = self.space.config(proposal.values)
            except UserError as error:
                trial = RunningTrial(proposal.number, proposal.values, TrialConfig(), proposal.tag,
                                     self.clock())
                self._close(trial, "failed", {}, str(error))
                continue
            trial = RunningTrial(proposal.number, proposal.values, config, proposal.tag, self.clock(),
                                 last_heartbeat=self.clock())
            self.live[trial.number] = trial
            # a reference arm is compared with, not weeded out; nobody is stopped twice
            if trial.tag or proposal.again:
                self.scheduler.protected.add(trial.number)
            self._emit("trial_started", trial=trial.number, values=trial.values, tag=trial.tag,
                       proposal_seconds=trial.started - asked)
            return trial
        return None

    def enqueue(self, values: Mapping[str, Any], tag: str | None = None, again: bool = False) -> bool:
        """Have a point proposed before any other, unless the study has it already; recorded,
        so that a replay knows."""
        if not self.study.enqueue(values, tag, again):
            return False
        self.folder.event({"event": "enqueue", "values": dict(values), "tag": tag, "again": again})
        return True

    def learn(self, values: Mapping[str, Any], state: State, metrics: Mapping[str, Any],
              rungs: Sequence[tuple[float, Mapping[str, Any]]] = ()) -> None:
        """Teach the study a result of another run, before the first ask; recorded as well."""
        self.study.learn(values, state, metrics, rungs)
        self.folder.event({"event": "learn", "values": dict(values), "state": state, "metrics": dict(metrics),
                           "rungs": [list(rung) for rung in rungs]}, sync=False)

    def report(self, number: int, event: RungResult, seconds: float | None = None) -> Decision:
        """Take one rung's measurements and decide. A rung that is known already (the trial was
        restarted) changes nothing.

        `seconds`: how long the trial has held its workers; the time since it was asked for when not given.
        """
        trial = self.live.get(number)
        if trial is None:
            return "stop"
        trial.seconds = self.clock() - trial.started if seconds is None else seconds
        trial.last_heartbeat = self.clock()
        if event["rung"] <= trial.rung:
            return "continue"
        metrics: Row = {name: value for name, value in event.items() if name not in _CONTROL}
        final = bool(event.get("final"))
        wrong = self._fault(metrics, final)
        trial.rung, trial.facts = (event["rung"],
                                   {"fidelity": event.get("steps"), "device": event.get("device")})
        if wrong:
            return self._close(trial, "failed", metrics, f"{wrong} at rung {trial.rung}")
        if event.get("steps"):
            trial.rungs.append((event["steps"], metrics))
        reported = {**{CONFIG + path: value for path, value in trial.values.items()}, **metrics}
        if final:
            self.scheduler.report(number, trial.rung, reported)
            if metrics.get("artifact"):
                metrics["artifact"] = self.keep(number, metrics["artifact"])
            return self._close(trial, "complete", metrics)
        if self.scheduler.report(number, trial.rung, reported) == "stop":
            return self._close(trial, "stopped", metrics, self.scheduler.reason)
        if over := self.spent:
            return self._close(trial, "stopped", metrics, f"the {over} budget was used up")
        self._append(self._row(trial, "rung", metrics))
        self.study.progress(number, trial.rungs)
        self._emit("rung", trial=number, rung=trial.rung, of=len(self.space.rungs),
                   steps=[event.get("steps"), list(self.space.rungs)[-1]], metrics=metrics)
        return "continue"

    def fail(self, number: int, reason: str, trace: str = "", seconds: float | None = None) -> None:
        """A trial ended without its result. Nothing happens when it has ended already."""
        trial = self.live.get(number)
        if trial is not None:
            trial.seconds = self.clock() - trial.started if seconds is None else seconds
            trial.rung = min(trial.rung + 1, len(self.space.rungs) - 1)  # the rung that it was on
            self._close(trial, "failed", {}, reason, trace)

    def stop(self, number: int, reason: str) -> None:
        """End a trial that has not come to its first rung. Nothing happens when it has ended already."""
        if trial := self.live.get(number):
            self._close(trial, "stopped", {}, reason)

    def overdue(self) -> list[int]:
        """Trials that have said nothing for longer than `budget.trial_time`; whoever runs them ends
        them and calls `fail`, or `heartbeat`: what a trial waited before its worker began does not count."""
        most = self.space.budget.trial_time
        now = self.clock()
        return ([] if most is None
                else [number for number, trial in self.live.items() if now - trial.last_heartbeat > most])

    def heartbeat(self, number: int, ago: float = 0.0) -> None:
        """A trial has given a sign of life that is no result, `ago` seconds before now."""
        if trial := self.live.get(number):
            trial.last_heartbeat = max(trial.last_heartbeat, self.clock() - ago)

    def add_measurements(self, number: int, more: Mapping[str, Any]) -> None:
        """Add measurements to a complete trial: its last row is recorded again, with them."""
        self._append({**self.incumbents.rows[number], **more, "time": time.time()})

    @property
    def over(self) -> bool:
        """No further trial is to be started."""
        return self.ended_by is not None

    @property
    def ended_by(self) -> str | None:
        """Which limit is reached: space, trials, time, device_hours, money or patience;
        None while none is."""
        if self.exhausted:
            return "space"
        return limits.reached(self.space.budget, started=self._started,
                              most=self.space.budget.trials or math.inf, elapsed=self.elapsed, held=self.held,
                              rate=self.rate, no_improvement=self.no_improvement)

    @property
    def spent(self) -> str | None:
        """Which of time, device_hours and money is used up; None while none is."""
        return limits.spent(self.space.budget, elapsed=self.elapsed, held=self.held, rate=self.rate)

    @property
    def seconds_left(self) -> float:
        """Until `spent` says something; infinite without such a limit."""
        return limits.seconds_left(self.space.budget, elapsed=self.elapsed, held=self.held,
                                   groups=self.groups, rate=self.rate)

    @property
    def limit(self) -> float:
        """Trials that there can be: the budget's, or the points of the space and what is tried
        again of them."""
        return min(self.space.budget.trials or math.inf, max(self._size, self._started))

    # ---- what is told
    @property
    def front(self) -> Front:
        """The front of everything recorded so far."""
        return self.incumbents.front

    @property
    def members(self) -> list[int]:
        """Trials on the front."""
        return self.incumbents.members

    @property
    def elapsed(self) -> float:
        """Seconds that the run took so far, earlier sessions included."""
        return self._spent + self.clock() - self._begun

    @property
    def held(self) -> float:
        """Group-seconds that the run has held, earlier sessions included."""
        return self._held + (self.clock() - self._begun) * self.groups

    def add_shared_seconds(self, seconds: float) -> None:
        """Account for time that a worker group spent on what trials share."""
        self.ledger.shared += seconds

    def cost(self) -> dict[str, Any]:
        """Device-seconds by what they were for, hours and money: see `cost.Ledger.breakdown`."""
        self.ledger.elapsed, self.ledger.held = self.elapsed, self.held
        return self.ledger.breakdown(self.rate, sum(trial.seconds for trial in list(self.live.values())))

    def summary(self) -> Summary:
        """Counts, front, best values, time and cost; part of every event."""
        cost, hardware = self.cost(), self.space.hardware
        hours = cost["held"] / self.rate.devices / 3600  # of one group
        return {
            "running": len(self.live), "complete": self.counts["complete"], "stopped": self.counts["stopped"],
            "failed": self.counts["failed"], "trials": int(self.limit) if math.isfinite(self.limit) else None,
            "front_size": len(self.incumbents.members), "hypervolume": self._volume(),
            "best": dict(self.incumbents.best), "elapsed": self.elapsed, "eta": self._eta(),
            "ended_by": self.ended_by, "cpu_hours": hours * hardware.workers * hardware.cpus,
            "gpu_hours": hours * hardware.workers * hardware.gpus, "cost": cost,
        }

    def emit(self, event: str, **more: Any) -> None:
        """Tell the observer something, with the summary: `search.engine.events` has what. May be
        called from any thread."""
        self._emit(event, **more)

    # ---- inside
    @property
    def _started(self) -> int:
        return len(self.ended) + len(self.live)

    def _volume(self) -> float | None:
        return None if self.box is None else self.incumbents.hypervolume(self.box)

    def _fault(self, metrics: Row, final: bool) -> str | None:
        """Why measurements cannot stand: below the top rung, objectives may be missing but not
        be NaN or infinite."""
        if final:
            return fault(metrics, self.space.objectives, self.space.constraints)
        present = [objective for objective in self.space.objectives if objective.metric in metrics]
        return fault(metrics, present)

    def _close(self, trial: RunningTrial, state: State, metrics: Row, reason: str | None = None,
               trace: str = "") -> Decision:
        self.live.pop(trial.number, None)
        row = self._row(trial, state, metrics, reason)
        changed = self._append(row)
        self.ledger.end(trial.number, state, row["seconds"])
        self.study.tell(trial.number, state, metrics or None, reason, trial.rungs)
        if trace:
            self.folder.event({"event": "traceback", "trial": trial.number, "traceback": trace})
        self._emit("trial_finished", trial=trial.number, state=state, rung=trial.rung, metrics=metrics,
                   reason=reason, values=trial.values, seconds=row["seconds"])
        if changed:
            self.folder.write_front(self.front)
            self._emit("front", trial=trial.number, members=self.members)
        return "stop"

    def _row(self, trial: RunningTrial, state: str, metrics: Row, reason: str | None = None) -> Row:
        searched = {CONFIG + path: value for path, value in trial.values.items()}
        return {"trial": trial.number, "rung": max(trial.rung, 0), "state": state, "tag": trial.tag,
                "fidelity": trial.facts.get("fidelity") or 0, **searched, **metrics,
                "seconds": trial.seconds, "device": trial.facts.get("device"),
                "seed": trial.config.seed, "versions": self.versions, "reason": reason, "time": time.time()}

    def _append(self, row: Row) -> bool:
        """Write a row down, then know it. Returns whether the front changed."""
        self.folder.append(row)
        return self._register(row)

    def _register(self, row: Row) -> bool:
        self.recorded += 1
        if row["state"] not in ENDED:
            return False
        first = row["trial"] not in self.ended
        if first:
            self.counts[row["state"]] += 1
        self.ended[row["trial"]] = row["state"]
        changed = self.incumbents.add(row)
        if row["state"] == "complete":
            self._choose_box()
        if first:
            self.no_improvement.note(self._volume())
        return changed

    def _choose_box(self) -> None:
        """Fix the hypervolume's box once there are results to take it from; the run folder keeps it."""
        if self.box is not None:
            return
        first = max(2, min(8, (self.space.budget.trials or 32) // 4))
        self.box = choose_box(self.incumbents.rows.values(), self.space.objectives, first=first,
                              given=self.space.box)
        corners = self.folder.meta.get("box") if self.box else None
        if corners:
            self.box = Box.of(corners, self.space.objectives)
        elif self.box:
            self.folder.update(box=self.box.corners())

    def _emit(self, event: str, **more: Any) -> None:
        self.observer(cast(EngineEvent, {**self.summary(), **more, "event": event}))

    def _eta(self) -> float | None:
        """Seconds to the end of the trials: those that remain at the pace so far, or what is left
        of time and money."""
        left = self.seconds_left
        if self.ended:
            remaining = self.limit - len(self.ended)
            left = min(left, sum(self.ledger.sums.values()) / len(self.ended) * remaining / self.groups)
        return max(0.0, left) if math.isfinite(left) else None
