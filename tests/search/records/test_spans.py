"""How long a run has worked: by monotonic spans, whatever the wall clock does meanwhile."""

import json
import time

import pytest

from search.engine.cost import Ledger
from search.engine.engine import Engine
from search.records.run_folder import EVENTS, RunFolder
from search.records.spans import WorkedSeconds
from search.reporting.timeline import working_seconds
from spaces.schema import Space

DAY = 86400.0
SPACE = Space.from_dict({"name": "clock", "objectives": {"perplexity": "minimize"},
                         "search": {"lora.rank": {"int": [0, 8]}}, "budget": {"time": 3600}})


class NoStudy:
    exhausted = False


def session(folder, wall, monkeypatch, shift):
    """Start, a trial, end; the wall clock is `shift` seconds ahead in between alone."""
    folder.event({"event": "run_started", "address": "", "run": "", "name": "", "resumed": False,
                  "groups": 2})
    wall["shift"] = shift
    folder.append({"trial": len(folder.rows()), "rung": 0, "state": "complete", "seconds": 1.0,
                   "perplexity": 2.0})
    wall["shift"] = 0.0
    folder.event({"event": "run_ended", "state": "finished"})


@pytest.mark.parametrize("shift", [DAY, -DAY])
def test_a_wall_clock_that_jumps_neither_ends_a_run_nor_adds_time(tmp_path, monkeypatch, shift):
    real, wall = time.time, {"shift": 0.0}
    monkeypatch.setattr("search.records.run_folder.time.time", lambda: real() + wall["shift"])
    folder = RunFolder.create(tmp_path, "clock", SPACE.to_yaml())
    for _ in range(3):
        session(folder, wall, monkeypatch, shift)
        folder.close("finished")
        folder = RunFolder.open(folder.path).lock()
    stamps = [entry["time"] for entry in folder.events()]
    assert max(stamps) - min(stamps) > DAY / 2, "the clock did jump"
    engine = Engine(SPACE, NoStudy(), None, folder)
    assert engine.elapsed < 60 and engine.held < 120 and engine.ended_by is None
    assert working_seconds(list(folder.events()))[1] < 60
    assert all("clock" not in row for row in folder.rows()), "rows hold what was measured"
    folder.close()


def test_sessions_add_up_and_pauses_do_not():
    worked = WorkedSeconds()
    entries = [("run_started", 0.5, 0), ("row", 10.5, 1e9), ("row", 8.0, 0), ("warning", 0.1, 5e9),
               ("run_started", 1.0, -5e9), ("run_ended", 3.0, 0)]
    assert [worked.add({"event": kind, "clock": clock, "time": wall}) for kind, clock, wall in entries] == [
        0, 10, 10, 10, 10, 12]


def test_records_of_before_the_clock_was_written_are_counted_by_time(tmp_path):
    folder = RunFolder.create(tmp_path, "old", SPACE.to_yaml())
    folder.close()
    old = [{"event": "run_started", "time": 100.0, "groups": 1}, {"event": "warning", "time": 130.0}]
    (folder.path / EVENTS).write_text("".join(json.dumps(entry) + "\n" for entry in old))
    folder = RunFolder.open(folder.path).lock()
    assert Ledger.from_events(folder.events()).elapsed == 30.0
    folder.event({"event": "warning", "detail": "of the next session, before it starts"})
    assert Ledger.from_events(folder.events()).elapsed == 30.0, "the pause is not work"
    folder.event({"event": "run_started", "address": "", "run": "", "name": "", "resumed": True})
    assert 30.0 <= Ledger.from_events(folder.events()).elapsed < 60.0
    folder.close()
