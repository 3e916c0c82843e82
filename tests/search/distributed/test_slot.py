"""A slot without a cluster: what it makes for its trial, what it says of it, and whose time that is."""

import json
from types import SimpleNamespace

import pytest

from search.distributed import shared, slot
from search.distributed.client import GroupDiedError, JobError
from search.distributed.slot import Slot
from spaces.errors import UserError

MAKE = {"make": True}


class Broker:
    """Answers at once: with the trial, then with its next step; `found` are the answers to claims by kind."""

    def __init__(self, found, payload):
        self.found, self.said = found, []
        self.tray = [{"op": "trial", "number": 4, "owner": "trial-4", "payload": payload}]

    def __getattr__(self, call):
        def remote(*arguments):
            self.said.append((call, *arguments))
            if call == "next_work":
                return self.tray.pop() if self.tray else {"op": "next"}
            return self.found[arguments[0].partition(" ")[0]] if call == "claim" else None

        return SimpleNamespace(remote=remote)


class Group:
    """Each event of a job takes ten seconds by `clock`; what is an exception is raised."""

    def __init__(self, clock, jobs, asked):
        self.clock, self.jobs, self.asked = clock, jobs, asked

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, job, payload):
        self.asked.append((job, payload))
        for event in self.jobs[job].pop(0):
            self.clock[0] += 10.0
            if isinstance(event, Exception):
                raise event
            yield event


@pytest.fixture
def play(monkeypatch):
    """The outcomes of a slot's steps until its first rung, or until its trial fails; what it told the broker;
    its jobs."""
    def whole(found, **jobs):
        clock, asked, owners = [1000.0], [], []
        for module in (slot, shared):
            monkeypatch.setattr(module, "get", lambda answer: answer)
            monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(slot.time, "time", lambda: clock[0])
        wanted = {"cache": "/cache", "settings": {"corpus": "-", "teacher": "t", "base": "b"}}
        broker = Broker(found,
                        {"config": {}, "prepared": {"corpus": "/c"}, "shared": wanted, "proposed": 1e3})
        jobs = {name: list(runs) for name, runs in jobs.items()}

        def lease(owner):
            owners.append(owner)
            return Group(clock, jobs, asked)

        worker = Slot.__new__(Slot)
        worker.setup({"slot": 0}, SimpleNamespace(broker=broker, lease=lease))
        outcomes = [json.loads(worker.step()["outcome"])]
        while "shared" in outcomes[-1]:
            outcomes.append(json.loads(worker.step()["outcome"]))
        return outcomes, broker.said, asked, owners

    return whole


TRIAL = [[{"ready": True}, {"rung": 0}]]


def test_what_is_made_already_is_not_made_again(play):
    (rung,), said, asked, owners = play({"teacher": {"path": "/t"}, "base": {"path": "/b"}}, trial=TRIAL)
    assert rung["event"]["rung"] == 0 and owners == ["trial-4"] and [job for job, _ in asked] == ["trial"]
    assert asked[0][1]["prepared"] == {"corpus": "/c", "teacher": "/t", "base": "/b"}
    assert [call for call in said if call[0] == "claim"] == [("claim", "teacher /c t", "trial-4"),
                                                             ("claim", "base /c b", "trial-4")]


def test_making_a_base_is_told_and_is_no_time_of_the_trial(play):
    made = {"progress": 1.0, "path": "/b", "steps": 9}
    outcomes, said, asked, owners = play({"teacher": {"path": "/t"}, "base": MAKE}, trial=TRIAL,
                                         base=[[{"progress": 0.5}, made]])
    *words, rung = outcomes
    assert [word["shared"] for word in words] == [{"kind": "base", "progress": 0.5},
                                                  {"kind": "base", **made, "seconds": 20.0}]
    assert asked[0] == ("base", {"config": {}, "cache": "/cache", "corpus": "/c"})
    assert owners == ["trial-4:shared", "trial-4"]
    assert ("settle", "base /c b", {"path": "/b"}) in said
    assert (rung["seconds"], rung["event"]["start_seconds"]) == (20.0, 10.0), "of 40 s, 20 for the base"


@pytest.mark.parametrize("error, reason, trace", [
    (UserError("base: training diverged; lower its lr"), "base: training diverged; lower its lr", ""),
    (JobError("KeyError: 'x'", "Traceback: here"), "base: KeyError: 'x'", "Traceback: here"),
])
def test_a_base_that_cannot_be_made_fails_the_trial_and_all_who_want_it(play, error, reason, trace):
    outcomes, said, _, _ = play({"teacher": {"path": "/t"}, "base": MAKE}, base=[[error]])
    assert outcomes[0]["shared"] == {"kind": "base", "failed": reason, "seconds": 10.0}
    assert outcomes[1] == {"failed": reason, "traceback": trace, "number": 4, "seconds": 0.0}
    assert ("settle", "base /c b", {"failed": reason}) in said


def test_a_trial_learns_that_another_could_not_make_its_base(play):
    outcomes, *_ = play({"teacher": {"path": "/t"}, "base": {"failed": "it diverged"}})
    assert outcomes == [{"failed": "it diverged", "traceback": "", "number": 4, "seconds": 0.0}]


def test_workers_that_die_cost_one_more_try_and_then_it_is_the_next_ones_turn(play):
    died, whole = GroupDiedError("out of memory"), {"progress": 1.0, "path": "/b"}
    found = {"teacher": {"path": "/t"}, "base": MAKE}
    outcomes, *_ = play(found, base=[[died], [whole]], trial=TRIAL)
    assert [list(outcome)[0] for outcome in outcomes] == ["shared", "event"]
    outcomes, said, *_ = play(found, base=[[died], [died]])
    assert outcomes[0]["failed"] == "base: its workers died twice: out of memory"
    assert ("withdraw", "trial-4") in said
    assert not [call for call in said if call[0] == "settle"]
