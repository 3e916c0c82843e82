"""Where the device time of a run went, and when its budget is used up."""

import json
import math

import pytest

from search.engine.budget import NoImprovement, reached, seconds_left, spent
from search.engine.cost import PARTS, Ledger, Rate
from search.engine.incumbents import Incumbents
from search.pareto.front import Front
from search.pareto.reference_box import Box
from spaces.config import HardwareConfig
from spaces.form import BudgetConfig
from spaces.objectives import Constraint, Objective

CPU = Rate.of(HardwareConfig(workers=2, cpus=3), price=0.5)


def event(kind, at, **more):
    return {"event": kind, "time": at, **more}


def row(at, trial, state, seconds):
    return event("row", at, trial=trial, state=state, seconds=seconds)


RUN = [
    event("run_started", 100.0, groups=2), event("prepare", 130.0, stage="base", seconds=20.0),
    row(140.0, 0, "rung", 5.0), row(150.0, 0, "complete", 15.0), row(151.0, 1, "stopped", 4.0),
    row(160.0, 2, "rung", 6.0), event("run_started", 1000.0, groups=4), row(1005.0, 3, "failed", 3.0),
    row(1010.0, 4, "rung", 7.0), row(1020.0, 0, "complete", 15.0),  # measured again: the same trial
]


def test_a_killed_sessions_time_counts_and_the_pause_does_not():
    ledger = Ledger.from_events(RUN)
    assert (ledger.elapsed, ledger.held) == (60.0 + 20.0, 60.0 * 2 + 20.0 * 4)
    assert (ledger.sums == {"complete": 15.0, "stopped": 4.0, "failed": 3.0 + 6.0 + 7.0}
            and ledger.shared == 20.0)
    live = Ledger.from_events(RUN, now=1030.0)
    assert live.held == 60.0 * 2 + 30.0 * 4 and live.sums["failed"] == 3.0 + 6.0, "trial 4 still runs"


def test_the_parts_add_up_to_what_was_held_and_money_follows_it():
    parts = Ledger.from_events(RUN).breakdown(CPU)
    assert parts["device"] == "CPU" and parts["held"] == 200.0 * 6 and parts["useful"] == 15.0 * 6
    assert sum(parts[name] for name in PARTS) == pytest.approx(parts["held"])
    assert parts["hours"] == pytest.approx(1200 / 3600) and parts["money"] == pytest.approx(0.5 * 1200 / 3600)
    gpus = Rate.of(HardwareConfig(workers=2, cpus=3, gpus=0.5))
    assert (gpus.devices, gpus.unit) == (1.0, "GPU") and Ledger().breakdown(gpus)["money"] is None
    assert json.loads(json.dumps(parts)) == parts


def limits_of(budget, **now):
    given = {"started": 3, "most": 10, "elapsed": 50.0, "held": 3600.0, "rate": CPU,
             "no_improvement": NoImprovement(0.0)}
    return reached(BudgetConfig(**budget), **{**given, **now})


@pytest.mark.parametrize("budget, found", [
    ({}, None), ({"time": 51}, None), ({"time": 50}, "time"), ({"device_hours": 6.0}, "device_hours"),
    ({"device_hours": 6.1}, None), ({"money": 3.0, "price": 0.5}, "money"),
    ({"money": 3.1, "price": 0.5}, None),
])
def test_limits(budget, found):
    assert limits_of(budget) == found and limits_of(budget, started=10) == "trials"
    ends = spent(BudgetConfig(**budget), elapsed=50.0, held=3600.0, rate=CPU)
    assert ends == found, "time and money end running trials too"


def test_patience_counts_trials_without_a_gain():
    no_improvement, found = NoImprovement(gain=0.01), []
    for volume in [None, None, 0.1, 0.105, 0.109, 0.2, 0.2, 0.2]:
        no_improvement.note(volume)
        found.append(limits_of({"patience": 2}, no_improvement=no_improvement))
    assert found == [None] * 4 + ["patience", None, None, "patience"]
    assert spent(BudgetConfig(patience=2), elapsed=0, held=0, rate=CPU) is None, "running trials may end"


def test_the_time_that_is_left_is_that_of_the_nearest_limit():
    def left(**budget):
        return seconds_left(BudgetConfig(**budget), elapsed=50.0, held=1800.0, groups=2, rate=CPU)

    assert left() == math.inf and left(time=80) == 30.0 and left(time=10) == 0.0
    assert left(device_hours=6.0) == (3600 - 1800) / 2 and left(money=3.0, price=0.5) == (3600 - 1800) / 2


def test_the_growing_front_equals_the_front_from_all_rows():
    import numpy as np

    rng = np.random.default_rng(0)
    objectives, constraints = ([Objective("a", "minimize"), Objective("b", "maximize")],
                               [Constraint("c", "<=", 0.8)])
    rows, incumbents = [], Incumbents(objectives, constraints)
    box = Box.of({"a": [0, 1], "b": [1, 0]}, objectives)
    for trial in range(120):
        state = ["complete", "complete", "complete", "stopped", "failed"][trial % 5]
        rows.append({"trial": trial if trial % 17 else max(0, trial - 17), "state": state,
                     "a": round(rng.uniform(), 1),
                     "b": round(rng.uniform(), 1) if trial % 11 else math.nan, "c": rng.uniform()})
        before = incumbents.members
        changed = incumbents.add(rows[-1])
        front = Front.from_rows(rows, objectives, constraints)
        assert incumbents.front == front and incumbents.members == [row["trial"] for row in front]
        assert changed == (before != incumbents.members)
        assert incumbents.hypervolume(box) == pytest.approx(front.hypervolume(box))
        if len(front):
            assert incumbents.best == {"a": front.best("a")["a"], "b": front.best("b")["b"]}
