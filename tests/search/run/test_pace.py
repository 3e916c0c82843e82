"""The budget holds while what trials share is made, and how long that takes is said early."""

import pytest

from search.cli.progress import EventText
from search.engine.engine import Engine
from search.records.memory import MemoryRecords
from search.run.pace import Pace, spoken
from search.run.prepare import SharedFolders
from search.run.simulator import VirtualClock
from search.schedulers.successive_halving import NoStopping, Problem
from search.study.opening import searcher
from spaces.errors import RunError
from spaces.schema import Space

SPACE = {"name": "toy", "objectives": {"loss": "minimize"}, "search": {"lora.rank": {"int": [0, 8]}},
         "rungs": [5, 10], "budget": {"trials": 3, "time": "9m"}, "box": {"loss": [0, 9]}}


class Workers:
    """Runs every job by telling progress: `seconds` for the whole, in steps of a tenth."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def map(self, tasks, on_event, watch=None):
        for index, (kind, _) in enumerate(tasks):
            for tenth in range(11):
                on_event(index, {"progress": tenth / 10, **({"path": f"{kind}-1"} if tenth == 10 else {})})
                self.clock.now += self.seconds[kind] / 10 * (tenth < 10)
                if watch:
                    watch()
        return [{"path": f"{kind}-1"} for kind, _ in tasks]


def prepared(base):
    clock, events = VirtualClock(), []
    space, records = Space.from_dict(SPACE), MemoryRecords()
    rungs = Problem(space.objectives, rungs=2)
    engine = Engine(space, searcher(space, rungs), NoStopping(rungs), records, clock=clock,
                    observer=events.append)
    shared = SharedFolders(space, Workers(clock, {"corpus": 1.0, "teacher": 60.0, "base": base}), "cache",
                           engine)
    shared.pace = Pace(clock)
    return shared, events


def test_the_budget_ends_a_run_that_is_still_preparing():
    shared, events = prepared(17 * 60.0)
    with pytest.raises(RunError, match="the time budget was used up before the first trial, while what "
                                       r"trials share was made \(base 40% ready\): give more"):
        shared.make_common()
    assert events[-1]["elapsed"] <= 9 * 60
    (warning,) = [event["message"] for event in events if event["event"] == "warning"]
    assert warning == ("base takes about 15 min more, and the budget ends in 6 min: give more time, or train "
                       "it for fewer steps")
    lines = [line for event in events if (line := EventText(()).line(event))]
    assert any("prepare base 10%, about 15 m 18 s to go" in line for line in lines)
    assert shared.engine.spent == "time"


def test_what_fits_into_the_budget_is_made_without_a_word():
    shared, events = prepared(5 * 60.0)
    shared.make_common()
    assert len(shared.paths) == 3
    assert not [event for event in events if event["event"] == "warning"]


def test_pace_counts_from_where_it_began():
    clock = VirtualClock()
    pace = Pace(clock)
    assert pace.left("base", 0.5) is None, "it went on from a checkpoint"
    clock.now += 2.0
    assert pace.left("base", 0.55) is None, "too early to tell"
    clock.now += 8.0
    assert pace.left("base", 0.6) == pytest.approx(40.0) and pace.left("teacher", 0.1) is None
    assert [spoken(seconds) for seconds in (1.2, 89, 90, 1020, 9000)] == [
        "2 s", "89 s", "2 min", "17 min", "2.5 h"]
