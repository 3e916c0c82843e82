"""Warm worker groups on a real cluster, with toy jobs."""

import os
import queue
import signal
import time
from contextlib import suppress

import pytest

from spaces.config import HardwareConfig
from spaces.errors import UserError

pytestmark = pytest.mark.usefixtures("ray_session")
TOYS = "toy_jobs:JOBS"


def make_pool(groups, scratch, workers=1, jobs=TOYS, **options):
    from search.distributed.worker_pool import WorkerPool

    return WorkerPool(groups, HardwareConfig(workers=workers), scratch, jobs=jobs, **options)


@pytest.fixture(scope="module")
def pool(ray_session, tmp_path_factory):
    with make_pool(1, tmp_path_factory.mktemp("pool")) as pool:
        yield pool


@pytest.fixture
def group(pool):
    with pool.client.lease() as group:
        yield group


def only(events):
    events = list(events)
    assert len(events) == 1, events
    return events[0]


def test_events_come_in_order_from_one_process_that_stays(pool):
    with pool.client.lease() as group:
        first = list(group.run("count", {"n": 3}))
    with pool.client.lease() as group:
        second = list(group.run("count", {"n": 2}))
    assert [event["i"] for event in first + second] == [0, 1, 2, 0, 1]
    assert len({event["pid"] for event in first + second}) == 1
    assert first[0]["pid"] != os.getpid()


def test_the_worker_computes_an_event_only_when_it_is_asked_for(group):
    events = group.run("count", {"n": 3})
    first = next(events)
    time.sleep(0.3)
    asked = time.time()
    assert next(events)["at"] >= asked > first["at"]
    events.close()


@pytest.mark.parametrize("kind, error, text", [
    ("value", "JobError", "ValueError: it broke"), ("exit", "JobError", "SystemExit: it broke"),
    ("user", "UserError", "it broke"),
])
def test_a_job_that_raises_costs_only_itself(group, kind, error, text):
    with pytest.raises((RuntimeError, UserError)) as caught:
        list(group.run("fail", {"kind": kind}))
    assert (type(caught.value).__name__, str(caught.value)) == (error, text)
    if error == "JobError":
        assert "toy_jobs.py" in caught.value.traceback
    assert len(list(group.run("count", {"n": 1}))) == 1


def test_an_unknown_job_is_an_error_of_that_job(group):
    with pytest.raises(RuntimeError, match="KeyError: 'juggle'"):
        next(group.run("juggle", {}))


def test_nothing_of_a_job_leaks_into_the_next(group):
    clean = only(group.run("probe", {}))
    littering = group.run("litter", {})
    assert next(littering) == {"size": 1000}
    littering.close()
    assert only(group.run("probe", {})) == clean
    assert clean["threads"] == clean["cpus"] == 1
    assert (clean["grad"], clean["dtype"], clean["leaves"]) == (True, "torch.float32", 0)


def test_leases_are_served_in_turn_and_an_owner_gets_its_own_again(pool, ray_session):
    client, ray = pool.client, ray_session
    assert client.lease("one").name == client.lease("one").name
    two, three = (client.broker.lease.remote(owner) for owner in ("two", "three"))
    assert ray.wait([two, three], num_returns=1, timeout=0.5)[0] == []
    client.release("one")
    assert "group" in ray.get(two, timeout=10)
    client.release("three")
    assert ray.get(three, timeout=10) == {"broken": "the lease was withdrawn"}
    client.release("two")


def test_a_withdrawn_lease_cannot_disturb_the_next_holder(pool):
    from search.distributed.client import GroupDiedError

    old = pool.client.lease("old")
    stale = old.run("count", {"n": 5})
    next(stale)
    old.release()
    with pool.client.lease("new") as group:
        events = group.run("count", {"n": 2})
        next(events)
        with pytest.raises(GroupDiedError, match="withdrawn"):
            next(stale)
        assert [event["i"] for event in events] == [1]


def test_map_returns_last_events_in_order_and_raises_the_first_error(pool):
    seen = []
    last = pool.client.map([("count", {"n": 2}),
                            ("count", {"n": 3})], lambda i, event: seen.append((i, event["i"])))
    assert [event["i"] for event in last] == [1, 2]
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    with pytest.raises(UserError, match="it broke"):
        pool.client.map([("fail", {"kind": "user"}), ("count", {"n": 1})])
    assert pool.client.map([("count", {"n": 1})])[0]["i"] == 0


def test_a_killed_worker_is_noticed_and_its_group_replaced(pool):
    from search.distributed.client import GroupDiedError

    group = pool.client.lease("unlucky")
    pid = next(group.run("count", {"n": 1}))["pid"]
    events = group.run("sleep", {"seconds": 600})
    next(events)
    assert pool.workers()[group.name]["workers"][0]["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(GroupDiedError, match="worker 0 died"):
        next(events)
    fresh = pool.client.lease("unlucky")
    assert fresh.name != group.name
    assert only(fresh.run("count", {"n": 1}))["pid"] != pid
    fresh.release()


def test_map_ends_a_task_that_is_silent_and_the_others_go_on(pool):
    hung, counted = pool.client.map([("sleep", {"seconds": 600}), ("count", {"n": 2})], patience=1.0,
                                    forgiving=True)
    assert str(hung) == "it said nothing for 1 s (budget.trial_time)"
    assert counted["i"] == 1 and pool.client.seconds_silent(["nobody"]) == [None]


def test_map_repeats_a_task_whose_worker_died_once(pool, tmp_path):
    assert pool.client.map([("die", {"once": str(tmp_path / "died")})]) == [{"survived": True}]


def test_close_ends_groups_that_still_compute(tmp_path):
    import psutil

    pool = make_pool(1, tmp_path).start()
    group = pool.client.lease()
    pid = only(group.run("count", {"n": 1}))["pid"]
    next(group.run("sleep", {"seconds": 600}))
    group.call({"op": "next"})
    worker = psutil.Process(pid)
    pool.close()
    with suppress(psutil.TimeoutExpired):  # it was killed: its end takes a moment on a busy machine
        worker.wait(10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_workers_that_cannot_start_break_the_pool_with_their_reason(tmp_path):
    from search.distributed.client import PoolError

    with make_pool(1, tmp_path, jobs="no_such_module:JOBS") as pool:
        with pytest.raises(PoolError, match="worker groups do not start: .*no_such_module"):
            pool.client.lease()


def test_two_workers_run_one_job_in_step(tmp_path):
    from search.distributed.client import GroupDiedError

    deaths = queue.Queue()
    with make_pool(1, tmp_path, workers=2, on_notice=deaths.put) as pool:
        group = pool.client.lease("pair")
        assert only(group.run("gather", {})) == {"sum": 3.0, "world": 2, "rank": 0}
        with pytest.raises(RuntimeError, match="worker 1: ValueError: only here"):
            list(group.run("one_rank_fails", {}))
        assert only(group.run("gather", {}))["sum"] == 3.0
        assert [event["rank"] for event in group.run("first_rank_only", {})] == [0, 0]
        assert only(group.run("gather", {}))["sum"] == 3.0
        os.kill(pool.workers()[group.name]["workers"][1]["pid"], signal.SIGKILL)
        with pytest.raises(GroupDiedError, match="worker 1 died"):
            list(group.run("gather", {}))
        # told by a thread of the pool, after the broker has told the group
        assert "worker 1 died" in deaths.get(timeout=60)
    assert deaths.empty()


@pytest.mark.parametrize(("private", "why"), [(True, "this machine is busy, or short of memory"),
                                              (False, "others may be using the cluster, or nodes were lost")])
def test_what_is_waited_for_is_told_by_whose_the_cluster_is(tmp_path, monkeypatch, private, why):
    from search.distributed import worker_pool

    said = []
    waiting = make_pool(1, tmp_path, private=private,
                        on_notice=lambda text: (said.append(text), waiting._closing.set()))
    monkeypatch.setattr(worker_pool, "_PATIENCE", 0.0)
    monkeypatch.setattr(waiting, "workers", lambda: {})
    waiting._warn_while_waiting()
    assert said == [f"still waiting for a worker group to start (1 x 1 CPU(s), 0 GPU(s)); {why}"]
