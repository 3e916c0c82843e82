"""Contracts that a plug-in's tests inherit: a class per kind, and `build` is all that a subclass gives.

    class TestMine(SchedulerContract):
        def build(self, problem):
            return Mine(problem)

The project's own tests run them over everything that is registered; `searcher_testing` holds that of
searchers. Needs pytest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from search.schedulers.successive_halving import Decision, Problem, Scheduler
from spaces.objectives import Constraint, Objective

LOSS, OK, COST = Objective("loss", "minimize"), Objective("ok", "maximize"), Objective("cost", "minimize")
FAST = Constraint("ms", "<=", 40.0)
Report = tuple[int, int, dict[str, Any]]


class SchedulerContract:
    """What every scheduler must do. A subclass gives `build`."""

    def build(self, problem: Problem) -> Scheduler:
        """A fresh scheduler for three rungs."""
        raise NotImplementedError

    def problem(self, **changes: Any) -> Problem:
        """Two objectives, a constraint, three rungs."""
        return Problem(**{"objectives": [LOSS, OK], "constraints": [FAST], "rungs": 3, **changes})

    def reports(self, trials: int = 40, rungs: int = 2) -> list[Report]:
        """Made-up measurements of trials that come rung by rung, one trial after another."""
        rng = np.random.default_rng(0)
        return [(trial, rung, {"loss": rng.normal(), "ok": rng.normal(), "ms": rng.uniform(20, 60)})
                for trial in range(trials) for rung in range(rungs)]

    def decide(self, scheduler: Scheduler, reports: Sequence[Report]) -> list[Decision]:
        """The decisions on reports in order."""
        return [scheduler.report(*report) for report in reports]

    def test_good_news_goes_on(self) -> None:
        found = self.decide(self.build(self.problem()),
                            [(trial, 0, {"loss": 5.0 - trial}) for trial in range(5)])
        assert found == ["continue"] * 5

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "broken"])
    def test_an_objective_that_is_no_finite_number_stops_the_trial_and_is_no_rival(
            self, value: float | str) -> None:
        scheduler = self.build(self.problem())
        assert scheduler.report(0, 0, {"loss": value, "ok": 1.0}) == "stop"
        assert scheduler.report(1, 0, {"loss": 1.0, "ok": 1.0}) == "continue"

    def test_the_last_rung_ends_nobody(self) -> None:
        scheduler = self.build(self.problem())
        assert [scheduler.report(trial, 2, {"loss": float(trial)}) for trial in range(9)] == ["continue"] * 9

    def test_nothing_to_compare_stops_nobody(self) -> None:
        scheduler = self.build(self.problem())
        assert [scheduler.report(trial, 0, {"other": 1.0}) for trial in range(9)] == ["continue"] * 9

    def test_a_protected_trial_goes_on_whatever_it_measures(self) -> None:
        scheduler = self.build(self.problem())
        for trial in range(20):
            scheduler.report(trial, 0, {"loss": 1.0, "ok": 1.0, "ms": 1.0})
        scheduler.protected.add(20)
        assert scheduler.report(20, 0, {"loss": 99.0, "ok": -99.0, "ms": 99.0}) == "continue"

    def test_the_same_reports_get_the_same_decisions_and_restore_goes_on_from_there(self) -> None:
        first, second, third = (self.build(self.problem()) for _ in range(3))
        reports = self.reports()
        decided = self.decide(first, reports)
        assert decided == self.decide(second, reports)
        half = len(reports) // 2
        third.restore({"trial": trial, "rung": rung, "state": "stopped" if decision == "stop" else "rung",
                       "seconds": 1.0, **metrics}
                      for (trial, rung, metrics), decision in zip(reports[:half], decided, strict=False))
        assert self.decide(third, reports[half:]) == decided[half:]

    def test_every_stop_has_a_reason_that_names_the_rung(self) -> None:
        scheduler = self.build(self.problem())
        for trial, rung, metrics in self.reports():
            if scheduler.report(trial, rung, metrics) == "stop":
                assert f"rung {rung}" in scheduler.reason and "\n" not in scheduler.reason

    def test_with_a_horizon_the_order_of_reports_behind_it_decides_nothing(self) -> None:
        """Trials t - 3 .. t may report in any order; a deterministic run rests on this."""
        reports = self.reports(rungs=1)
        shuffled = [report for start in range(0, len(reports), 4)
                    for report in reversed(reports[start:start + 4])]
        found = []
        for order in (reports, shuffled):
            scheduler = self.build(self.problem(horizon=lambda trial: trial - 4))
            found.append({report[0]: scheduler.report(*report) for report in order})
        assert found[0] == found[1]

    def test_a_trial_is_not_stopped_for_what_only_the_top_rung_can_tell(self) -> None:
        """The cheap half is worse at `loss` and best at `cost`, which has a proxy below the top rung."""
        scheduler = self.build(self.problem(objectives=[LOSS, COST], constraints=(),
                                            proxies={"cost": "flops"}))
        for trial in range(12):
            cheap = trial % 2
            scheduler.report(trial, 0, {"loss": 2.0 if cheap else 1.0, "flops": 1.0 if cheap else 100.0})
        assert scheduler.report(12, 0, {"loss": 1.9, "flops": 0.5}) == "continue"


class StoreContract:
    """What every store of a run's records must do. A subclass gives `build`."""

    def build(self) -> Any:
        """A fresh store, ready to be written."""
        raise NotImplementedError

    def test_rows_come_back_in_order_with_every_value(self) -> None:
        store = self.build()
        rows = [{"trial": 1, "rung": 0, "state": "rung", "config.q": {"name": "fixed"}, "loss": 0.1 + 0.2,
                 "label": "é"},
                {"trial": 0, "rung": 1, "state": "complete", "config.q": ["a", None], "loss": math.inf,
                 "seconds": 1e-9},
                {"trial": 1, "rung": 0, "state": "rung", "loss": 2}]
        for row in rows:
            store.append(row)
        assert ([{name: value for name, value in row.items() if name != "time"} for row in store.rows()]
                == rows)
        assert all(row["time"] > 1.6e9 for row in store.rows())

    def test_a_number_that_is_none_stays_one(self) -> None:
        store = self.build()
        store.append({"trial": 0, "rung": 0, "state": "failed", "loss": math.nan})
        assert math.isnan(store.rows()[0]["loss"])

    def test_events_and_rows_stand_in_one_order_synced_or_not(self) -> None:
        store = self.build()
        store.event({"event": "ask", "trial": 0, "values": {}}, sync=False)
        store.append({"trial": 0, "rung": 0, "state": "complete"})
        store.event({"event": "ask", "trial": 1, "values": {}})
        assert ([(entry["event"], entry["trial"]) for entry in store.events()]
                == [("ask", 0), ("row", 0), ("ask", 1)])
        assert len(store.rows()) == 1
        with pytest.raises(AssertionError, match="rows go through append"):
            store.event({"event": "row", "trial": 9})

    def test_what_a_reader_changes_does_not_reach_the_store(self) -> None:
        store = self.build()
        store.append({"trial": 0, "rung": 0, "state": "complete"})
        store.rows()[0]["state"] = "changed"
        assert store.rows()[0]["state"] == "complete"

    def test_meta_data_is_merged(self) -> None:
        store = self.build()
        store.update(box={"loss": [0, 1]})
        assert (store.update(spent=3.0)["box"] == store.meta["box"] == {"loss": [0, 1]}
                and store.meta["spent"] == 3.0)
