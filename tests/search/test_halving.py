import math

import numpy as np
import pytest

from search.halving import Halving, NoHalving, Scheduler, rank
from spaces.objectives import Constraint, Objective

LOSS, OK = Objective("loss", "minimize"), Objective("ok", "maximize")
FAST = Constraint("ms", "<=", 40.0)


def decisions(scheduler, losses, rung=0):
    return [scheduler.report(trial, rung, {"loss": loss}) for trial, loss in enumerate(losses)]


class SchedulerContract:
    """What every scheduler must do. A subclass gives `build`."""

    def build(self) -> Scheduler:
        raise NotImplementedError

    def test_good_news_goes_on(self):
        assert decisions(self.build(), [5.0, 4.0, 3.0, 2.0, 1.0]) == ["continue"] * 5

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "broken"])
    def test_an_objective_that_is_no_finite_number_stops_the_trial(self, value):
        scheduler = self.build()
        assert scheduler.report(0, 0, {"loss": value, "ok": 1.0}) == "stop"
        assert scheduler.report(1, 0, {"loss": 1.0, "ok": 1.0}) == "continue"

    def test_the_last_rung_ends_nobody(self):
        scheduler = self.build()
        assert [scheduler.report(trial, 2, {"loss": float(trial)}) for trial in range(9)] == ["continue"] * 9

    def test_nothing_to_compare_stops_nobody(self):
        scheduler = self.build()
        assert [scheduler.report(trial, 0, {"other": 1.0}) for trial in range(9)] == ["continue"] * 9

    def test_the_same_reports_get_the_same_decisions_and_restore_goes_on_from_there(self):
        rng = np.random.default_rng(0)
        reports = [(trial, int(rung), {"loss": rng.normal(), "ok": rng.normal(), "ms": rng.uniform(20, 60)})
                   for trial in range(40) for rung in range(2)]
        first, second, third = self.build(), self.build(), self.build()
        decided = [first.report(*report) for report in reports]
        assert decided == [second.report(*report) for report in reports]
        half = len(reports) // 2
        third.restore({"trial": trial, "rung": rung, "state": "rung", "seconds": 1.0, **metrics}
                      for trial, rung, metrics in reports[:half])
        assert [third.report(*report) for report in reports[half:]] == decided[half:]


class TestHalving(SchedulerContract):
    def build(self):
        return Halving([LOSS, OK], [FAST], rungs=3, eta=3)

    def test_keeps_the_best_third_once_there_are_three(self):
        #         nobody below eta | 1 of 3 stays | 2 of 4..6 | 3 of 7..9
        assert decisions(self.build(), [3.0, 9.0, 5.0, 8.0, 4.0, 1.0, 3.5, 4.0, 2.0]) == [
            "continue", "continue", "stop", "stop", "continue", "continue", "continue", "stop", "continue"]

    @pytest.mark.parametrize("eta", [2, 3, 4])
    def test_about_one_in_eta_of_many_goes_on(self, eta):
        scheduler = Halving([LOSS], rungs=2, eta=eta)
        going = decisions(scheduler, np.random.default_rng(1).permutation(200).astype(float)).count("continue")
        assert 200 / eta * 0.8 <= going <= 200 / eta * 1.3
        assert len(scheduler.best(0, {"loss": 0.0})) == math.ceil(200 / eta)

    def test_the_front_goes_on_though_it_is_best_at_nothing(self):
        scheduler = self.build()
        points = [(1.0, 0.1), (9.0, 0.9), (5.0, 0.2), (8.0, 0.3), (8.5, 0.3), (4.0, 0.6)]
        found = [scheduler.report(trial, 0, {"loss": loss, "ok": ok}) for trial, (loss, ok) in enumerate(points)]
        assert found[2:5] == ["stop"] * 3, "dominated"
        assert sorted(scheduler.best(0, {"loss": 0, "ok": 0})) == [0, 1], "six trials, two go on: the ends first"
        assert [scheduler.report(trial, 0, {"loss": 10.0, "ok": 0.0}) for trial in (6, 7)] == ["stop"] * 2
        assert sorted(scheduler.best(0, {"loss": 0, "ok": 0})) == [0, 1, 5], "then the middle of the front"

    def test_feasible_goes_before_infeasible_and_the_nearer_to_the_bound_next(self):
        rows = [{"loss": 1.0, "ms": 80.0}, {"loss": 9.0, "ms": 40.0}, {"loss": 5.0, "ms": 41.0}, {"loss": 8.0, "ms": 1.0}]
        assert rank(rows, [LOSS], [FAST]).tolist() == [3, 1, 2, 0]
        scheduler = self.build()
        assert [scheduler.report(trial, 0, row) for trial, row in enumerate(rows)] == [
            "continue", "continue", "stop", "continue"]

    def test_ties_are_cut_by_crowding_and_copies_go_last(self):
        rows = [{"loss": 0.0, "ok": 0.0}, {"loss": 1.0, "ok": 1.0}, {"loss": 5.0, "ok": 5.0},
                {"loss": 10.0, "ok": 10.0}, {"loss": 1.0, "ok": 1.0}]
        assert rank(rows, [LOSS, OK]).tolist() == [0, 3, 2, 1, 4]
        assert rank([], [LOSS, OK]).tolist() == []

    def test_only_objectives_that_are_measured_at_the_rung_are_compared(self):
        scheduler = self.build()
        for trial, loss in enumerate([1.0, 2.0, 3.0]):
            scheduler.report(trial, 0, {"loss": loss, "ok": None})
        assert scheduler.report(3, 0, {"loss": 9.0}) == "stop"
        assert scheduler.report(4, 0, {"loss": 9.0, "ok": 1.0}) == "continue", "no rival has both"

    def test_protected_trials_always_go_on_but_count_as_rivals(self):
        scheduler = Halving([LOSS], rungs=2, eta=3, protected={2})
        assert decisions(scheduler, [1.0, 2.0, 99.0]) == ["continue"] * 3
        scheduler.protected.add(3)
        assert scheduler.report(3, 0, {"loss": 0.1}) == "continue"
        assert scheduler.report(4, 0, {"loss": 1.5}) == "stop", "behind the protected one and the first"
        assert scheduler.report(3, 0, {"loss": math.nan}) == "stop", "but not without a number"

    def test_a_retried_trial_replaces_its_report(self):
        scheduler = self.build()
        assert decisions(scheduler, [3.0, 2.0]) == ["continue"] * 2
        assert [scheduler.report(1, 0, {"loss": 2.0}) for _ in range(5)] == ["continue"] * 5
        assert scheduler.report(2, 0, {"loss": 2.5}) == "stop", "third of three, not of seven"

    def test_rungs_are_apart_and_bounded(self):
        scheduler = self.build()
        decisions(scheduler, [1.0, 2.0, 3.0, 4.0])
        assert scheduler.report(3, 1, {"loss": 4.0}) == "continue", "the first to reach the second rung"
        with pytest.raises(ValueError, match="rungs 0 to 2"):
            scheduler.report(0, 3, {"loss": 1.0})

    @pytest.mark.parametrize("options", [{"rungs": 0}, {"rungs": 2, "eta": 1}])
    def test_impossible_settings_are_refused(self, options):
        with pytest.raises(ValueError, match="legal: rungs at least 1, eta at least 2"):
            Halving([LOSS], **options)


class TestNoHalving(SchedulerContract):
    def build(self):
        return NoHalving([LOSS, OK])

    def test_bad_news_goes_on_too(self):
        assert decisions(self.build(), [1.0, 2.0, 3.0, 4.0, 5.0]) == ["continue"] * 5
