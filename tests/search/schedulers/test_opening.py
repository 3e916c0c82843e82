"""Halving that stops by prediction while few trials are complete."""

import numpy as np
import pytest

from search.contracts.schedulers import LOSS, SchedulerContract
from search.schedulers.opening import Opening
from search.schedulers.registry import build
from search.schedulers.successive_halving import Problem, SuccessiveHalving
from spaces.objectives import Objective
from tests.search.schedulers.test_promotion import SPACE, STEPS, problem, row

BOX = {"loss": (0.0, 2.0), "ok": (1.0, -1.0)}


class TestOpening(SchedulerContract):
    """The contract with points and a box, so that predictions decide from the third trial on."""

    def build(self, problem):
        box = {item.metric: (1.0, 0.0) if item.direction == "maximize" else (0.0, 10.0)
               for item in problem.objectives}
        return build("halving", Problem(problem.objectives, problem.constraints, problem.rungs,
                                        problem.proxies, problem.seed, SPACE, box, STEPS, problem.horizon))

    def reports(self, trials=12, rungs=2):
        rng = np.random.default_rng(0)
        return [(trial, rung, row(*rng.uniform(size=2), rung)) for trial in range(trials)
                for rung in range(rungs)]


def first_rungs(scheduler, trials=8):
    """Trials apart along x that lie near the front, y = 0.05, but for the last two."""
    ys = [*[0.05] * (trials - 2), 0.9, 0.9]
    return [scheduler.report(trial, 0, row(x, y, 0))
            for trial, (x, y) in enumerate(zip(np.linspace(0.05, 0.95, trials), ys, strict=True))]


def test_what_adds_little_is_stopped_though_no_trial_is_complete_and_no_rival_beats_it():
    alone, opening = (build("halving", problem(box=BOX), {"opening": until}) for until in (0, 4))
    found = [first_rungs(scheduler) for scheduler in (alone, opening)]
    # with the best `ok` of all no rival beats the last trial
    ends = [scheduler.report(20, 0, row(1.0, 0.6, 0, ok=1.2)) for scheduler in (alone, opening)]
    assert found[0][:6] == found[1][:6] == ["continue"] * 6
    assert found[1][-1] == "stop" and ends[0] == "continue"


def test_once_enough_are_complete_it_is_halving():
    scheduler, alone = (build("halving", problem(box=BOX), {"opening": until}) for until in (2, 0))
    for trial, x in enumerate((0.2, 0.8)):
        for rung in range(3):
            scheduler.protected.add(trial)
            scheduler.report(trial, rung, row(x, 0.0, rung))
            alone.report(trial, rung, row(x, 0.0, rung))
    rng = np.random.default_rng(0)
    for trial in range(2, 30):
        report = (trial, 0, row(*rng.uniform(size=2), 0))
        assert scheduler.report(*report) == alone.report(*report) and scheduler.reason == alone.reason


@pytest.mark.parametrize("options, changes", [({"opening": 0}, {"box": BOX}), ({}, {}),
                                              ({}, {"box": BOX, "dimensions": {}}),
                                              ({}, {"box": {"loss": (0.0, 2.0)}})])
def test_without_what_it_takes_halving_alone_decides(options, changes):
    assert type(build("halving", problem(**changes), options)) is SuccessiveHalving
    assert isinstance(build("halving", problem(box=BOX)), Opening)


def test_in_a_deterministic_run_trials_that_have_not_ended_change_nothing():
    known = problem(box=BOX, horizon=lambda trial: trial - 4)
    few, many = (build("halving", known) for _ in range(2))
    for trial in range(5, 9):
        many.report(trial, 0, row(0.1 * trial, 0.01, 0))
    for trial, x in enumerate((0.2, 0.5, 0.8, 0.9)):
        reports = [scheduler.report(trial, 0, row(x, 0.3, 0)) for scheduler in (few, many)]
        assert reports[0] == reports[1]


def test_proxies_stand_in_the_proportion_of_complete_trials():
    changes = {"objectives": [LOSS, Objective("slow", "minimize")], "proxies": {"slow": "work"},
               "box": {"loss": (0.0, 2.0), "slow": (0.0, 3.0)}}
    scheduler = build("halving", problem(**changes), {"opening": 4})
    assert isinstance(scheduler, Opening)
    for trial, work in enumerate((10.0, 30.0)):
        scheduler.report(trial, 0, {"config.x": 0.1, "config.y": 0.1, "loss": 1.0, "work": work})
    assert [curve[0]["slow"] for curve in scheduler._known([0, 1])] == [1.0, 3.0], "the largest at the corner"
    scheduler.report(0, 2, {"config.x": 0.1, "config.y": 0.1, "loss": 1.0, "work": 10.0, "slow": 0.5})
    found = scheduler._known([0, 1])
    assert [found[0][0]["slow"], found[0][2]["slow"], found[1][0]["slow"]] == [0.5, 0.5, 1.5]
