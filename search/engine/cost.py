"""What a run costs: device-seconds by what they were for, and money; told from a run's events alone.

A device is a GPU where trials hold GPUs, else a CPU. Devices count as held from the moment a session starts
until it ends, for that is what one pays for: what is held and went into nothing below is overhead (starting,
waiting, measuring the front again).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from search.records.events import RecordedEvent
from search.records.spans import WorkedSeconds
from spaces.config import HardwareConfig

ENDED = ("complete", "stopped", "failed")
PARTS = {
    "useful": "trials that completed", "stopped": "trials that were stopped early",
    "failed": "trials that failed or were lost", "running": "trials that run now",
    "shared": "corpus, teacher and base",
    "overhead": "starting, waiting, measuring and training the front again",
}
"""What device-seconds can have been for."""


@dataclass(frozen=True)
class Rate:
    """What a group of workers holds, and the price of one device for an hour."""

    devices: float
    unit: str
    price: float | None = None

    @classmethod
    def of(cls, hardware: HardwareConfig, price: float | None = None) -> Rate:
        """`devices` are GPUs where there are any, else CPUs, over all workers of a trial."""
        gpus = hardware.workers * hardware.gpus
        return cls(gpus, "GPU", price) if gpus else cls(hardware.workers * hardware.cpus, "CPU", price)


@dataclass
class Ledger:
    """Group-seconds of a run: `elapsed` wall seconds of its sessions, `held` group-seconds, the rest
    by trial or stage.

    A group is what one trial holds; times `Rate.devices` it is device-seconds.
    """

    elapsed: float = 0.0
    held: float = 0.0
    shared: float = 0.0
    trials: dict[int, tuple[str, float]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ENDED, 0.0))

    @classmethod
    def from_events(cls, events: Iterable[RecordedEvent], now: float | None = None) -> Ledger:
        """The account of a run folder's events. A session lasts from `run_started` to the last
        event before the next one, so a killed driver's time counts too, by its monotonic clock
        (`search.records.spans`). `now` (Unix seconds): the last session still goes on."""
        ledger, worked, began, last, groups = cls(), WorkedSeconds(), False, 0.0, 1
        unfinished: dict[int, float] = {}
        for event in events:
            before = worked.total
            more = worked.add(event) - before
            last = event.get("time") or last
            if event["event"] == "run_started":
                began, groups = True, int(event.get("groups") or 1)
                ledger._lose(unfinished)
            elif began:
                ledger._hold(more, groups)
            if event["event"] == "row":
                if event["state"] in ENDED:
                    ledger.end(event["trial"], event["state"], event.get("seconds") or 0.0)
                    unfinished.pop(event["trial"], None)
                else:
                    unfinished[event["trial"]] = event.get("seconds") or 0.0
            elif event["event"] == "prepare":
                ledger.shared += event.get("seconds") or 0.0
        if began and now is not None:
            ledger._hold(max(0.0, now - last), groups)
        if now is None:
            ledger._lose(unfinished)
        return ledger

    def _hold(self, seconds: float, groups: int) -> None:
        self.elapsed += seconds
        self.held += seconds * groups

    def _lose(self, unfinished: dict[int, float]) -> None:
        """Trials of a session that was cut off run again under other numbers; what they had taken is gone."""
        for trial, seconds in unfinished.items():
            self.end(trial, "failed", seconds)
        unfinished.clear()

    def end(self, trial: int, state: str, seconds: float) -> None:
        """A trial ended. A later word on the same trial replaces the earlier one."""
        before = self.trials.get(trial)
        if before:
            self.sums[before[0]] -= before[1]
        self.trials[trial] = (state, seconds)
        self.sums[state] += seconds

    def breakdown(self, rate: Rate, running: float = 0.0) -> dict[str, Any]:
        """Device-seconds by `PARTS`, their sum `held`, `device` (CPU or GPU), `hours` and, with
        a price, `money`."""
        used = {"useful": self.sums["complete"], "stopped": self.sums["stopped"],
                "failed": self.sums["failed"], "running": running, "shared": self.shared}
        held = max(self.held, sum(used.values()))
        parts = {**used, "overhead": held - sum(used.values()), "held": held}
        hours = held * rate.devices / 3600
        return {"device": rate.unit, "hours": hours, "money": None if rate.price is None
                else hours * rate.price, **{name: seconds * rate.devices for name, seconds in parts.items()}}
