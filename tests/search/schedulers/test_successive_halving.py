import math

import numpy as np
import pytest

from search.contracts.schedulers import FAST, LOSS, OK, SchedulerContract
from search.schedulers import successive_halving
from search.schedulers.registry import SCHEDULERS, build
from search.schedulers.successive_halving import NoStopping, Problem, SuccessiveHalving, rank
from spaces.objectives import Objective


def decisions(scheduler, losses, rung=0):
    return [scheduler.report(trial, rung, {"loss": loss}) for trial, loss in enumerate(losses)]


@pytest.mark.parametrize("name", list(SCHEDULERS))
class TestEveryScheduler(SchedulerContract):
    """The contract, for each scheduler by name."""

    @pytest.fixture(autouse=True)
    def _named(self, name):
        self.name, self.options = name, {}

    def build(self, problem):
        return build(self.name, problem, self.options)


@pytest.mark.parametrize("options",
                         [{"ties": "hypervolume"}, {"ties": "spread"}, {"eta": 2}, {"spare_front": False}])
class TestHalvingWithOptions(SchedulerContract):
    @pytest.fixture(autouse=True)
    def _chosen(self, options):
        self.options = options

    def build(self, problem):
        return build("halving", problem, self.options)


class TestHalving:
    def build(self):
        return SuccessiveHalving(Problem([LOSS, OK], [FAST], rungs=3), eta=3, spare_front=False)

    def test_keeps_the_best_third_once_there_are_three(self):
        #         nobody below eta | 1 of 3 stays | 2 of 4..6 | 3 of 7..9
        assert decisions(self.build(), [3.0, 9.0, 5.0, 8.0, 4.0, 1.0, 3.5, 4.0, 2.0]) == [
            "continue", "continue", "stop", "stop", "continue", "continue", "continue", "stop", "continue"]

    @pytest.mark.parametrize("eta", [2, 3, 4])
    def test_about_one_in_eta_of_many_goes_on(self, eta):
        scheduler = SuccessiveHalving(Problem([LOSS], rungs=2), eta=eta)
        going = decisions(scheduler,
                          np.random.default_rng(1).permutation(200).astype(float)).count("continue")
        assert 200 / eta * 0.8 <= going <= 200 / eta * 1.3
        assert len(scheduler.best(0, 199)) == math.ceil(200 / eta)

    def test_the_front_goes_on_though_it_is_best_at_nothing(self):
        scheduler = self.build()
        points = [(1.0, 0.1), (9.0, 0.9), (5.0, 0.2), (8.0, 0.3), (8.5, 0.3), (4.0, 0.6)]
        found = [scheduler.report(trial, 0, {"loss": loss, "ok": ok})
                 for trial, (loss, ok) in enumerate(points)]
        assert found[2:5] == ["stop"] * 3, "dominated"
        assert sorted(scheduler.best(0, 5)) == [0, 1], "six trials, two go on: the ends first"
        assert [scheduler.report(trial, 0, {"loss": 10.0, "ok": 0.0}) for trial in (6, 7)] == ["stop"] * 2
        assert sorted(scheduler.best(0, 7)) == [0, 1, 5], "then the middle of the front"

    def test_feasible_goes_before_infeasible_and_the_nearer_to_the_bound_next(self):
        rows = [{"loss": 1.0, "ms": 80.0}, {"loss": 9.0, "ms": 40.0}, {"loss": 5.0, "ms": 41.0},
                {"loss": 8.0, "ms": 1.0}]
        assert rank(rows, [LOSS], [FAST]).tolist() == [3, 1, 2, 0]
        scheduler = self.build()
        assert [scheduler.report(trial, 0, row) for trial, row in enumerate(rows)] == [
            "continue", "continue", "stop", "continue"]

    def test_a_stop_names_the_constraint_the_rival_or_the_quota(self):
        rows = [{"loss": 3.0, "ok": 1.0, "ms": 1.0}, {"loss": 1.0, "ok": 0.0, "ms": 1.0},
                {"loss": 2.0, "ok": 0.5, "ms": 1.0}, {"loss": 0.0, "ok": 1.0, "ms": 50.0},
                {"loss": 4.0, "ok": 0.9, "ms": 2.0}]
        found = []
        for spare in (True, False):
            scheduler = SuccessiveHalving(Problem([LOSS, OK], [FAST], rungs=3), spare_front=spare)
            for trial, row in enumerate(rows):
                scheduler.reason = ""
                scheduler.report(trial, 0, row)
                found.append(scheduler.reason)
        infeasible = "infeasible on ms at rung 0: 50 where <= 40 is asked"
        assert found == ["", "", "", infeasible, "beaten by trial 0 at rung 0: 3 of 5 go on",
                         "", "", "quota of rung 0: 1 of 3 go on, those that add more", infeasible,
                         "beaten by trial 0 at rung 0: 2 of 5 go on"]

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
        scheduler = SuccessiveHalving(Problem([LOSS], rungs=2), eta=3, protected={2})
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
            SuccessiveHalving(Problem([LOSS], rungs=options.pop("rungs")), **options)


    @pytest.mark.parametrize("ties, kept",
                             [("crowding", {0, 3}), ("hypervolume", {1, 2}), ("spread", {0, 2})])
    def test_a_layer_is_cut_by_the_rule_asked_for(self, ties, kept):
        """A front with two rows bulging towards the good corner and two far ends that add little volume."""
        rows = [{"loss": 0.0, "ok": 0.0}, {"loss": 1.0, "ok": 6.0}, {"loss": 4.0, "ok": 9.0},
                {"loss": 10.0, "ok": 9.1}]
        assert set(rank(rows, [LOSS, OK], ties=ties)[:2].tolist()) == kept

    def test_what_no_rival_beats_can_be_spared_however_many_there_are(self):
        # a front of twelve, and one beaten
        points = [(float(step), float(step)) for step in range(12)] + [(3.0, 1.0)]
        found = {}
        for spare in (False, True):
            scheduler = SuccessiveHalving(Problem([LOSS, OK], rungs=2), eta=3, spare_front=spare)
            found[spare] = [scheduler.report(trial, 0, {"loss": loss, "ok": ok})
                            for trial, (loss, ok) in enumerate(points)]
        assert found[True] == ["continue"] * 12 + ["stop"]
        assert "stop" in found[False][:12]

    def test_brackets_spare_a_known_share_of_the_trials_the_first_rungs(self):
        scheduler = SuccessiveHalving(Problem([LOSS], rungs=3, seed=1), eta=3, brackets=3)
        found = [scheduler.bracket(trial) for trial in range(600)]
        assert ([found.count(index) / 600 for index in range(3)]
                == pytest.approx([9 / 13, 3 / 13, 1 / 13], abs=0.05))
        spared = next(trial for trial in range(3, 600) if found[trial] == 1)
        decisions(scheduler, [1.0, 2.0, 3.0])
        assert scheduler.report(spared, 0, {"loss": 99.0}) == "continue"
        for trial in range(3):
            scheduler.report(trial, 1, {"loss": 1.0})
        assert scheduler.report(spared, 1, {"loss": 99.0}) == "stop"
        assert found == [SuccessiveHalving(Problem([LOSS], rungs=3, seed=1), brackets=3).bracket(trial)
                         for trial in range(600)]

    def test_only_the_latest_rivals_are_looked_at(self, monkeypatch):
        monkeypatch.setattr(successive_halving, "WINDOW", 60)
        scheduler = SuccessiveHalving(Problem([LOSS], rungs=2), eta=2)
        decisions(scheduler, [0.0] * 60)
        for trial in range(60, 120):
            scheduler.report(trial, 0, {"loss": 5.0 + trial})
        assert scheduler.report(120, 0, {"loss": 1.0}) == "continue", "the zeros are out of sight"

    def test_few_sampler_steps_survive_by_their_known_cost(self):
        """Perplexity alone would stop every cheap trial at the first rung; the analytic cost keeps
        the cheap best one."""
        objectives, proxies = [LOSS, Objective("latency_ms", "minimize")], {"latency_ms": "generation_flops"}
        rows = [{"loss": 10.0 + trial, "generation_flops": 500.0} for trial in range(6)] + [
            {"loss": 30.0, "generation_flops": 50.0}]
        for known, found in ((proxies, "continue"), ({}, "stop")):
            scheduler = SuccessiveHalving(Problem(objectives, rungs=2, proxies=known), eta=3)
            for trial, row in enumerate(rows[:-1]):
                scheduler.report(trial, 0, row)
            assert scheduler.report(6, 0, rows[-1]) == found


def test_without_halving_bad_news_goes_on_too():
    assert decisions(NoStopping(Problem([LOSS, OK], rungs=3)), [1.0, 2.0, 3.0, 4.0, 5.0]) == ["continue"] * 5
