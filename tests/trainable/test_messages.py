"""Whatever driver, broker, slots and workers say to each other is in `trainable.messages`.
No cluster needed."""

import asyncio
import json

import pytest
import torch
from typed_dicts import types_of

from search.distributed import slot as slots
from search.distributed.broker import Broker
from search.distributed.client import GroupDiedError, JobError, PoolError, _checked
from search.distributed.slot import Slot
from spaces.errors import UserError
from trainable.messages import Command, GroupInfo, JobEvent, Lease, Outcome, Reply, Work, WorkerReply
from trainable.workers.context import WorkerContext
from trainable.workers.loop import JobRunner


def play(scene):
    async def act():
        broker = Broker()
        await broker.register("g", 0, 1, {"pid": 42, "actor": "actor", "node": "here", "cpus": 1})
        return await asyncio.wait_for(scene(broker), 5)

    return asyncio.run(act())


def test_a_lease_a_command_and_its_reply():
    async def scene(broker):
        lease = await broker.lease("trial-1")
        call = asyncio.create_task(broker.call("g", "trial-1",
                                               {"op": "start", "job": "trial", "payload": {}}))
        command = await broker.next_command("g")
        await broker.reply_to("g", command["seq"], {"ok": True})
        groups = await broker.workers()
        await broker.release("trial-1")
        await broker.shut_down()
        return lease, command, await call, groups, [await broker.next_command("g") for _ in range(2)]

    lease, command, reply, groups, last = play(scene)
    assert types_of(lease, Lease) == ["Leased"] and types_of(command, Command) == ["StartJob"]
    assert (types_of(reply, Reply) == ["DoneReply"]
            and types_of(groups["g"], GroupInfo | Lease) == ["GroupInfo"])
    assert [types_of(each, Command) for each in last] == [["CloseJob"], ["ExitWorker"]]


@pytest.mark.parametrize(("end", "kind", "raised"), [
    (lambda broker: broker.group_died("g", "killed"), "GroupDied", GroupDiedError),
    (lambda broker: broker.terminate("trial-1", "it said nothing for 3 s"), "Terminated", JobError),
])
def test_who_waits_for_a_group_that_is_gone_learns_why(end, kind, raised):
    async def scene(broker):
        await broker.lease("trial-1")
        call = asyncio.create_task(broker.call("g", "trial-1", {"op": "next"}))
        await broker.next_command("g")
        await end(broker)
        return await call

    reply = play(scene)
    assert types_of(reply, Reply) == [kind]
    with pytest.raises(raised):
        _checked(reply)


def test_a_command_to_the_group_of_another_and_a_lease_that_cannot_be_had():
    async def scene(broker):
        strange = (await broker.call("g", "nobody", {"op": "next"}),
                   await broker.call("h", "nobody", {"op": "next"}))
        await broker.refuse_leases("none starts")
        return *strange, await broker.lease("trial-2")

    others, unknown, refused = play(scene)
    assert types_of(others, Reply) == types_of(unknown, Reply) == ["GroupDied"]
    assert types_of(refused, Lease) == ["LeaseRefused"]


def test_what_a_worker_answers():
    def job(payload, context):
        yield {"ready": True}
        yield {"rung": 0, "steps": 5, "final": False, "loss": 1.0}
        raise UserError("no such text")

    runner = JobRunner({"trial": job}, WorkerContext(torch.device("cpu")))
    commands = [{"op": "start", "job": "trial", "payload": {}}, *[{"op": "next"}] * 4, {"op": "close"}]
    replies = [runner.handle(command) for command in commands]
    assert [types_of(reply, WorkerReply) for reply in replies] == [
        ["DoneReply"], ["EventReply"], ["EventReply"], ["ErrorReply"], ["EndReply"], ["DoneReply"]]
    assert ("Ready" in types_of(replies[1]["event"], JobEvent)
            and "Ready" not in types_of(replies[2]["event"], JobEvent))


class Group:
    """A leased group whose events are given; an exception among them is raised."""

    def __init__(self, events):
        self.events = events

    def run(self, job, payload):
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event


def outcomes(monkeypatch, work, leases):
    """What a slot answers to pieces of work, on groups with these events; `leases`: one list
    of events a lease."""
    class Client:
        broker = type("Broker", (),
                      {"next_work": type("Call", (),
                                         {"remote": staticmethod(lambda slot, fresh: work.pop(0))})})

        def lease(self, owner):
            if not leases:
                raise PoolError("the broker is gone")
            return Group(leases.pop(0))

    monkeypatch.setattr(slots, "get", lambda reference: reference)
    slot = Slot.__new__(Slot)
    slot.setup({"slot": 0}, Client())
    return [json.loads(slot.step()["outcome"]) for _ in range(len(work))]


TRIAL = {"op": "trial", "number": 3, "owner": "trial-3", "payload": {"proposed": 0.0}}
RUNGS = [{"ready": True}, {"notice": "not stored"}, {"rung": 0, "steps": 5, "final": False, "loss": 2.0},
         {"rung": 1, "steps": 9, "final": True, "loss": 1.0}]


def test_what_a_slot_answers(monkeypatch):
    found = outcomes(monkeypatch, [TRIAL, {"op": "next"}, {"op": "next"}], [RUNGS])
    assert [types_of(each, Outcome) for each in found] == [["RungOutcome"], ["RungOutcome"],
                                                           ["FailedOutcome"]]
    assert (found[0]["event"]["start_seconds"] > 0 and found[0]["event"]["loss"] == 2.0
            and found[0]["number"] == 3)
    assert [each["notices"] for each in found[:2]] == [["not stored"], []]
    assert found[2]["failed"] == "the trial ended before its last rung" and found[2]["traceback"] == ""


def test_a_slot_tells_whose_fault_it_is(monkeypatch):
    dying = [GroupDiedError("killed")]
    assert types_of(TRIAL, Work) == ["TrialWork"]
    blamed, = outcomes(monkeypatch, [{"op": "blamed", "number": 3}], [])
    twice, = outcomes(monkeypatch, [TRIAL], [dying, dying])
    raised, = outcomes(monkeypatch, [TRIAL], [[JobError("it broke", "in line 3")]])
    broken, = outcomes(monkeypatch, [TRIAL], [])
    assert all(types_of(each, Outcome) == ["FailedOutcome"] for each in (blamed, twice, raised))
    assert twice["failed"] == "its workers died twice: killed" and raised["traceback"] == "in line 3"
    assert types_of(broken, Outcome) == ["BrokenOutcome"]
