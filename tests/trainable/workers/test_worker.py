"""The loop of a warm worker, without a cluster: who is to blame for what a job raises."""

import errno
import sys
import types

import pytest
import torch

from search.distributed.client import DiskError, JobError, PoolError, _checked
from trainable.workers.context import WorkerContext
from trainable.workers.loop import JobRunner


def wrapped():
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as full:
        raise RuntimeError("the file could not be saved") from full


def told_only():
    raise RuntimeError("I/O error: No space left on device (os error 28)")  # as safetensors says it


def own_fault():
    raise OSError(errno.ENOENT, "No such file or directory")


def reply_to(act):
    def job(payload, context):
        yield {"i": 0}
        act()

    runner = JobRunner({"job": job}, WorkerContext(torch.device("cpu"), 0, 1, 1))
    assert runner.handle({"op": "start", "job": "job", "payload": {}}) == {"ok": True}
    assert runner.handle({"op": "next"}) == {"event": {"i": 0}}
    return runner.handle({"op": "next"})


@pytest.mark.parametrize("act", [wrapped, told_only])
def test_a_full_disk_is_not_the_trials_fault_and_ends_the_run(act):
    with pytest.raises(
            DiskError,
            match=r"^a worker cannot write: RuntimeError: .*; make room, then go on with --resume$"):
        _checked(reply_to(act))
    assert issubclass(DiskError, PoolError), ("a slot hands it to the driver, which ends the run; "
                                              "the trial stays open")


def test_any_other_error_is_the_trials_own():
    with pytest.raises(JobError, match=r"^FileNotFoundError: \[Errno 2\] No such file or directory"):
        _checked(reply_to(own_fault))


def test_a_close_that_was_overtaken_leaves_the_next_job_open():
    runner = JobRunner({"job": lambda payload, context: iter([{"i": payload}])},
                       WorkerContext(torch.device("cpu"), 0, 1, 1))
    for token in ("first", "second"):
        assert runner.handle({"op": "start", "job": "job", "payload": token, "token": token}) == {"ok": True}
    assert runner.handle({"op": "close", "token": "first"}) == {"ok": True}
    assert runner.handle({"op": "next"}) == {"event": {"i": "second"}}
    for close in ({"op": "close", "token": "second"}, {"op": "close"}):
        runner.handle({"op": "start", "job": "job", "payload": 3, "token": "second"})
        assert runner.handle(close) == {"ok": True}
        assert "no job is open" in runner.handle({"op": "next"})["error"]


def test_what_a_job_imported_is_left_out_of_later_collections(monkeypatch):
    frozen = []
    monkeypatch.setattr("trainable.workers.loop.gc.freeze", lambda: frozen.append(len(sys.modules)))

    def job(payload, context):
        for name in payload["imports"]:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        yield {"i": 0}

    runner = JobRunner({"job": job}, WorkerContext(torch.device("cpu"), 0, 1, 1))
    runner.clear()
    assert len(frozen) == 1, "what the worker itself imported"
    for imports in (["qdlm_test_a"], [], ["qdlm_test_b", "qdlm_test_c"], []):
        runner.handle({"op": "start", "job": "job", "payload": {"imports": imports}})
        runner.handle({"op": "next"})
        runner.handle({"op": "close"})
    assert len(frozen) == 3, "after the two jobs that imported something"
