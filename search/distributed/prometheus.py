"""What a run tells Prometheus, through `ray.util.metrics`: every node's Ray exports it, with
the prefix `ray_`.

Labels are bounded: `run` (one value per run), `state`, `outcome`, `rung`, `objective`. Trials
never are labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from ray.util.metrics import Counter, Gauge, Histogram

from search.engine.events import EngineEvent, RungMeasured, TrialFinished, TrialStarted, WarningRaised
from search.records.events import Summary

STATES: tuple[Literal["running", "complete", "stopped", "failed"], ...] = ("running", "complete",
                                                                           "stopped", "failed")
OUTCOMES = ("useful", "stopped", "failed", "running", "shared", "overhead")
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

CATALOG: dict[str, tuple[type, str, tuple[str, ...]]] = {
    "qdlm_trials": (Gauge, "Trials of the run by state, earlier sessions included.", ("state",)),
    "qdlm_front_members": (Gauge, "Members of the Pareto front.", ()),
    "qdlm_hypervolume_ratio": (Gauge, "Hypervolume of the front as a share of the run's box; "
                                      "absent before there is a box.", ()),
    "qdlm_best_objective": (Gauge, "Best feasible value of an objective, in its own unit.", ("objective",)),
    "qdlm_rung_results_total": (Counter, "Measurements taken, by rung (0 = the first).", ("rung",)),
    "qdlm_device_seconds": (Gauge, "Device-seconds held, by what they were for, earlier sessions included.",
                            ("outcome",)),
    "qdlm_proposal_seconds": (Histogram, "Time the sampler took to propose a trial.", ()),
    "qdlm_trial_start_seconds": (Histogram, "Time from a trial's proposal to its first training step.", ()),
    "qdlm_tokens_per_second": (Gauge, "Positions trained per second in the latest measured trial, "
                                      "padding counted.", ()),
    "qdlm_last_result_timestamp_seconds": (Gauge, "When the latest measurement came in, Unix time.", ()),
    "qdlm_warnings_total": (Counter, "Warnings of the run.", ()),
}
"""Type, help and labels (besides `run`) by name."""


class RunMetrics:
    """Observes a run's events, sets the metrics, and passes each event on."""

    def __init__(self, run: str, observer: Callable[[EngineEvent], None],
                 clock: Callable[[], float] = time.time):
        """A connection to Ray must exist. `run`: the run folder's name."""
        self.observer, self.clock = observer, clock
        self.known: set[int] = set()
        self.metrics: dict[str, Any] = {}
        for name, (kind, text, labels) in CATALOG.items():
            options = {"boundaries": list(SECONDS)} if kind is Histogram else {}
            metric = kind(name, description=text, tag_keys=("run", *labels), **options)
            metric.set_default_tags({"run": run})
            self.metrics[name] = metric

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Tune writes snapshots of all it holds, though none is ever read: there, events
        come to nothing."""
        return _nowhere, ()

    def __call__(self, event: EngineEvent) -> None:
        self._summary(event)
        teller = getattr(self, f"_{event['event']}", None)
        if teller:
            teller(event)
        self.observer(event)

    def _summary(self, event: Summary) -> None:
        """The summary that every event carries."""
        for state in STATES:
            self._set("qdlm_trials", event.get(state), state=state)
        self._set("qdlm_front_members", event.get("front_size"))
        self._set("qdlm_hypervolume_ratio", event.get("hypervolume"))
        for objective, value in (event.get("best") or {}).items():
            self._set("qdlm_best_objective", value, objective=objective)
        for outcome in OUTCOMES:
            self._set("qdlm_device_seconds", (event.get("cost") or {}).get(outcome), outcome=outcome)

    def _set(self, name: str, value: float | None, **labels: str) -> None:
        if value is not None:
            self.metrics[name].set(float(value), labels)

    def _trial_started(self, event: TrialStarted) -> None:
        if event.get("proposal_seconds") is not None:
            self.metrics["qdlm_proposal_seconds"].observe(max(0.0, event["proposal_seconds"]))

    def _rung(self, event: RungMeasured | TrialFinished) -> None:
        measured = event.get("metrics") or {}
        if not measured:
            return  # a trial that failed before it was measured
        self.metrics["qdlm_rung_results_total"].inc(1, {"rung": str(event.get("rung", 0))})
        self._set("qdlm_last_result_timestamp_seconds", self.clock())
        self._set("qdlm_tokens_per_second", measured.get("tokens_per_second"))
        if event["trial"] not in self.known and measured.get("start_seconds") is not None:
            self.metrics["qdlm_trial_start_seconds"].observe(max(0.0, measured["start_seconds"]))
        self.known.add(event["trial"])

    _trial_finished = _rung

    def _warning(self, event: WarningRaised) -> None:
        self.metrics["qdlm_warnings_total"].inc(1)


def _nowhere() -> Callable[[EngineEvent], None]:
    return _nothing


def _nothing(event: EngineEvent) -> None:
    """What a snapshot holds in place of an observer."""
