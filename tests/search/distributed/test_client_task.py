"""Ray Client: a start of the client's server that fails once is tried again; a reason is one line."""

import types

import pytest

from search.distributed import client_task
from spaces.errors import UserError

FAILED = ("Initialization failure from server:\nTraceback (most recent call last):\n  File \"proxier.py\", "
          "line 1\nTimeoutError: the agent did not answer\n")


class Head:
    """`ray`, as far as connecting goes: raises `failures` one by one, then connects."""

    exceptions = types.SimpleNamespace(RayError=type("RayError", (Exception,), {}))

    def __init__(self, *failures):
        self.failures, self.starts, self.ends = list(failures), 0, 0

    def init(self, address, **settings):
        self.starts += 1
        if self.failures:
            raise self.failures.pop(0)

    def shutdown(self):
        self.ends += 1


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(client_task.time, "sleep", lambda seconds: None)


def test_a_server_that_does_not_start_is_tried_again():
    head = Head(ConnectionAbortedError(FAILED), ConnectionAbortedError(FAILED))
    client_task._connect(head, "ray://h:1", {})
    assert (head.starts, head.ends) == (3, 2)


@pytest.mark.parametrize(("failures", "starts", "reason"), [
    ([ConnectionAbortedError(FAILED)] * 3, 3,
     "Initialization failure from server: TimeoutError: the agent did not answer"),
    ([RuntimeError("version mismatch\nhere 1\nthere 2")], 1, "version mismatch here 1"),
    ([ConnectionError()], 1, "ConnectionError")])
def test_what_stays_wrong_is_one_line(failures, starts, reason):
    head = Head(*failures)
    with pytest.raises(UserError) as found:
        client_task._connect(head, "ray://h:1", {})
    assert head.starts == starts and str(found.value) == f"--address ray://h:1: {reason}"
