"""Model-based promotion; the contract and replay are tested with all schedulers'."""

import numpy as np
import pytest

from search.contracts.schedulers import FAST, LOSS, OK, SchedulerContract
from search.schedulers.registry import build
from search.schedulers.successive_halving import Problem
from spaces.dimensions import Dimension
from spaces.errors import UserError

SPACE = {"x": Dimension(**{"float": [0.0, 1.0]}), "y": Dimension(**{"float": [0.0, 1.0]})}
STEPS = (10, 30, 90)


def row(x, y, rung, **more):
    """A front along y = 0; lower rungs look worse by the same for all."""
    return {"config.x": x, "config.y": y, "loss": x**2 + y + 1.0 / (1 + rung), "ok": 1.0 - (1 - x) ** 2 - y,
            "ms": 10.0, **more}


def problem(**changes):
    return Problem(**{"objectives": [LOSS, OK], "constraints": [FAST], "rungs": 3, "dimensions": SPACE,
                      "steps": STEPS, **changes})


def learned(scheduler, trials=12, seed=0):
    """Trials that ran to their end, whatever was decided."""
    rng = np.random.default_rng(seed)
    for trial in range(trials):
        x, y = rng.uniform(size=2)
        scheduler.protected.add(trial)
        for rung in range(3):
            assert scheduler.report(trial, rung, row(x, y, rung)) == "continue"
    return scheduler


class TestWithoutPoints(SchedulerContract):
    """Where no point is told it is halving."""

    def build(self, problem):
        return build("promotion", problem)


class TestWithPoints(SchedulerContract):
    """The contract again with points in every report and the processes deciding early."""

    def build(self, problem):
        return build("promotion",
                     Problem(problem.objectives, problem.constraints, problem.rungs, problem.proxies,
                             problem.seed, SPACE, {}, STEPS, problem.horizon), {"startup": 2})

    def reports(self, trials=40, rungs=2):
        rng = np.random.default_rng(0)
        return [(trial, rung, row(*rng.uniform(size=2), rung)) for trial in range(trials)
                for rung in range(rungs)]


def test_the_promising_goes_on_and_the_hopeless_does_not():
    scheduler = learned(build("promotion", problem(), {"caution": 0.1}))
    for trial, x in enumerate((0.3, 0.5, 0.7), 100):
        assert scheduler.report(trial, 0, row(x, 0.0, 0)) == "continue", "on the front"
        assert scheduler.report(trial, 1, row(x, 0.0, 1)) == "continue"
    for trial, x in enumerate((0.3, 0.5, 0.7), 200):
        assert scheduler.report(trial, 0, row(x, 0.9, 0)) == "stop"


def test_what_would_break_a_bound_is_stopped():
    scheduler = build("promotion", problem(), {"caution": 0.1})
    rng = np.random.default_rng(0)
    for trial in range(12):
        x, y = rng.uniform(size=2)
        scheduler.protected.add(trial)
        for rung in range(3):
            scheduler.report(trial, rung, row(x, y, rung, ms=80 * x))
    assert scheduler.report(100, 0, row(0.2, 0.0, 0, ms=16.0)) == "continue"
    assert scheduler.report(101, 0, row(0.95, 0.0, 0, ms=76.0)) == "stop"


def test_the_less_is_left_the_sooner_a_trial_goes_on_and_caution_decides_how_much():
    """A trial that is expected to add a little is worth a few steps and not many."""
    found = {}
    for caution in (0.0, 1.0, 50.0):
        scheduler = learned(build("promotion", problem(), {"caution": caution}), trials=20)
        found[caution] = [scheduler.report(100 + place, 0, row(x, 0.02, 0))
                          for place, x in enumerate(np.linspace(0, 1, 9))]
    counts = [decisions.count("continue") for decisions in found.values()]
    assert counts[0] == 9 and counts[0] >= counts[1] >= counts[2] == 0
    scheduler = build("promotion", problem())
    assert [scheduler._left(rung) for rung in range(3)] == pytest.approx([8 / 9, 2 / 3, 0.0])
    assert build("promotion", problem(steps=()))._left(0) == pytest.approx(2 / 3)


def test_restored_from_records_it_decides_as_if_it_had_seen_them():
    first, second = (build("promotion", problem(), {"caution": 0.02}) for _ in range(2))
    rng, rows, later = np.random.default_rng(3), [], []
    for trial in range(30):
        x, y = rng.uniform(size=2)
        for rung in range(3):
            decided = first.report(trial, rung, row(x, y, rung))
            state = "stopped" if decided == "stop" else "complete" if rung == 2 else "rung"
            if trial < 15:
                rows.append({"trial": trial, "rung": rung, "state": state, "fidelity": STEPS[rung],
                             **row(x, y, rung)})
            else:
                later.append((trial, rung, row(x, y, rung), decided))
            if decided == "stop":
                break
    second.restore(rows)
    assert [second.report(*entry[:3]) for entry in later] == [entry[3] for entry in later]
    assert {entry[3] for entry in later} == {"continue", "stop"}


@pytest.mark.parametrize("options",
                         [{"startup": 1}, {"caution": -1.0}, {"startup": 9, "most": 8}, {"eta": 1}])
def test_impossible_options_are_refused(options):
    message = r"scheduler 'promotion': (option '\w+' should be greater|most is 8; legal: at least startup, 9)"
    with pytest.raises(UserError, match=message):
        build("promotion", problem(), options)
