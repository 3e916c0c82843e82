"""Every entry of events.jsonl, and every event that observers are told, is of one of the types
that there are."""

import json

import pytest
from recorded_run import SPACE, record
from typed_dicts import types_of

from search.engine.cost import Ledger
from search.engine.engine import Engine
from search.engine.events import EngineEvent
from search.records.events import RecordedEvent
from search.records.follow import Tally
from search.records.memory import MemoryRecords
from search.records.run_folder import EVENTS, RunFolder
from search.run.simulator import VirtualClock, simulate
from search.run.validation import problem
from search.schedulers.registry import build
from search.study.opening import replayed, searcher
from spaces.schema import Space

FUTURE = {"event": "from_the_future", "time": 1e9, "what": [1]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record(tmp_path_factory.mktemp("runs"))


def test_the_entries_of_a_run_are_of_one_type_each(run):
    entries = list(RunFolder.open(run).events())
    assert all(len(types_of(entry, RecordedEvent)) == 1 for entry in entries)
    assert {types_of(entry, RecordedEvent)[0] for entry in entries} == {"RowEvent", "AskEvent"}


def test_an_engine_tells_and_records_nothing_else():
    space, told, records = Space.from_dict({**SPACE, "budget": {"trials": 5}}), [], MemoryRecords()
    clock = VirtualClock()
    engine = Engine(space, searcher(space, problem(space)), build("halving", problem(space)), records,
                    observer=told.append, clock=clock)
    engine.enqueue({"lora.rank": 3}, tag="plain")
    engine.learn({"adapt.optim.lr": 1e-3, "lora.rank": 1}, "stopped", {"perplexity": 9.0},
                 [(5, {"perplexity": 9.0})])

    def rungs(live):
        if live.number == 2:
            raise ValueError("it broke")
        for rung, steps in enumerate(space.rungs):
            yield 1.0, {"rung": rung, "steps": steps, "final": rung == 1, "perplexity": 9.0 - live.number / 9,
                        "controllability": 0.5}

    simulate(engine, clock, rungs, 2)
    engine.emit("warning", message="a worker group died")
    assert all(len(types_of(event, EngineEvent)) == 1 for event in told)
    assert {types_of(event, EngineEvent)[0] for event in told} == {
        "TrialStarted", "RungMeasured", "TrialFinished", "FrontChanged", "WarningRaised"}
    assert all(event["cost"]["device"] == "CPU" and event["trials"] == 5 for event in told)
    assert {types_of(entry, RecordedEvent)[0] for entry in records.events()} == {
        "EnqueueEvent", "LearnEvent", "AskEvent", "RowEvent"}


def test_events_and_keys_that_are_not_known_are_passed_over(run, tmp_path):
    """As a newer version may write them, and as older ones lacked them."""
    lines = (run / EVENTS).read_text().splitlines()
    newer = tmp_path / "newer"
    newer.mkdir()
    for file in run.iterdir():
        if file.name not in (EVENTS, "run.lock"):
            (newer / file.name).write_bytes(file.read_bytes())
    added = [json.dumps({**json.loads(line), "of_the_future": 1}) if '"ask"' in line else line
             for line in lines]
    (newer / EVENTS).write_text("\n".join([json.dumps(FUTURE), *added]) + "\n")
    old, new = RunFolder.open(run), RunFolder.open(newer)
    assert new.rows() == old.rows() and len(old.rows()) > 12
    assert Ledger.from_events(new.events()).sums == Ledger.from_events(old.events()).sums
    space = Space.from_dict(SPACE)
    assert replayed(space, problem(space), new) == replayed(space, problem(space), old)
    tallies = [Tally(), Tally()]
    for folder, tally in zip((old, new), tallies, strict=True):
        for entry in folder.events():
            tally.add(entry)
    assert tallies[0].counts == tallies[1].counts
