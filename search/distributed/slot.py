"""A slot as Ray Tune runs it: an actor without resources of its own that carries out one trial after the
other. It leases a warm worker group for each and asks it for one rung per step. Light imports: this is what
its process loads first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from ray import tune

from search.distributed.client import GroupDiedError, JobError, PoolClient, PoolError, get
from search.distributed.shared import prepared
from spaces.errors import UserError
from trainable.messages import (
    FailedOutcome,
    JobEvent,
    Outcome,
    RungOutcome,
    RungResult,
    SharedWord,
    TrialWork,
    Work,
)


def owner_of(number: int) -> str:
    """The name under which a trial leases its group."""
    return f"trial-{number}"


class Slot(tune.Trainable):
    """Runs the job `trial` on leased groups, one rung per step. What goes wrong is a result too,
    not an exception."""

    def setup(self, config: dict[str, Any],  # type: ignore[override]  # more comes of tune.with_parameters
              client: PoolClient) -> None:
        """Called once per process. `config`: {"slot"}."""
        self.client, self.slot, self.fresh = client, config["slot"], True

    def step(self) -> dict[str, Any]:
        """The next rung, or word of what the trial shares: {"outcome": an `Outcome` as JSON, "done"};
        with `done` the slot has nothing more to do."""
        try:
            work: Work = get(self.client.broker.next_work.remote(self.slot, self.fresh))
        except PoolError as broken:
            return self._result({"broken": str(broken)})
        self.fresh = False
        if work["op"] == "leave":
            return {"outcome": "", "done": True}
        if work["op"] == "blamed":
            return self._result({"failed": "its Ray Tune actor died twice", "traceback": "",
                                 "number": work["number"], "seconds": 0.0})
        if work["op"] == "trial":
            self._begin(work)
        return self._result(self._next_outcome())

    @staticmethod
    def _result(outcome: Outcome) -> dict[str, Any]:
        return {"outcome": json.dumps(outcome), "done": False}

    def _begin(self, work: TrialWork) -> None:
        self.number, self.owner, self.payload = work["number"], work["owner"], work["payload"]
        self.events: Iterator[JobEvent] | None = None
        self.restarts = 1
        self.notices: list[str] = []
        self.start: RungResult = {}  # from the proposal to the first training step, by the hosts' clocks
        # work so far, and since when the present stretch runs
        self.seconds, self.since = 0.0, time.monotonic()
        self.begun, self.waited = self.since, 0.0  # when it began, and how long it waited for what it shares
        self.sharing: Iterator[SharedWord] | None = prepared(self.client, self.owner, self.payload)

    def _next_outcome(self) -> Outcome:
        while True:
            try:
                if self.sharing is not None:
                    word = self._shared()
                    if word is not None:
                        return {"shared": word, "number": self.number, "seconds": self._worked()}
                if self.events is None:
                    self.seconds += time.monotonic() - self.since
                    group = self.client.lease(self.owner)
                    self.since = time.monotonic()  # waiting for workers is not work
                    self.events = group.run("trial", self.payload)
                for event in self.events:
                    if "notice" in event:
                        self.notices.append(event["notice"])
                    if "rung" in event:
                        return self._rung(event)
                    if "ready" in event:
                        self.start = {"start_seconds": time.time() - self.payload["proposed"] - self.waited}
                return self._failed("the trial ended before its last rung")
            except GroupDiedError as died:
                self.events = None
                if not self.restarts:
                    return self._failed(f"its workers died twice: {died}")
                self.restarts -= 1
            except JobError as failed:
                return self._failed(str(failed), failed.traceback)
            except UserError as mistake:
                return self._failed(str(mistake))
            except PoolError as broken:
                return {"broken": str(broken)}

    def _rung(self, event: RungResult) -> RungOutcome:
        notices, self.notices = self.notices, []
        return {"event": {**event, **self.start}, "notices": notices, "number": self.number,
                "seconds": self._worked()}

    def _failed(self, reason: str, trace: str = "") -> FailedOutcome:
        return {"failed": reason, "traceback": trace, "number": self.number, "seconds": self._worked()}

    def _worked(self) -> float:
        """Seconds of work on the trial so far."""
        return self.seconds + time.monotonic() - self.since

    def _shared(self) -> SharedWord | None:
        """The next word on what the trial shares; None when it is there. That is no work of the trial."""
        assert self.sharing is not None
        try:
            word = next(self.sharing, None)
        finally:
            self.since = time.monotonic()
        if word is None:
            self.sharing, self.waited = None, self.since - self.begun
        return word

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep: the worker checkpoints, the run folder records."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """A slot that was started again is given its trial again; the job continues from its
        own checkpoint."""
