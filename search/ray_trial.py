"""A trial as Ray Tune runs it: an actor without resources of its own, reused from trial to trial, that leases a warm worker
group and asks it for one rung per step. Light imports: this is what a trial's actor loads before the first trial starts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from ray import tune

from search.ray_client import Client, GroupDiedError, JobError, PoolError
from spaces.errors import UserError


def owner_of(number: int) -> str:
    """The name under which a trial leases its group."""
    return f"trial-{number}"


class WarmTrial(tune.Trainable):
    """Runs the job `trial` on a leased group, one rung per step. What goes wrong is a result too, not an exception."""

    def setup(self, config: dict[str, Any], client: Client) -> None:
        """Called once per actor; `reset_config` for each later trial."""
        self.client = client
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.owner, self.payload = config["owner"], json.loads(config["payload"])
        self.events: Iterator[dict[str, Any]] | None = None
        self.restarts = 1
        self.start: dict[str, float] = {}  # from the proposal to the first training step, by the hosts' clocks
        self.seconds, self.since = 0.0, time.monotonic()  # work so far, and since when the present stretch runs

    def step(self) -> dict[str, str]:
        """The next rung: {"outcome": JSON of {"event"} | {"failed", "traceback"} | {"broken"}, with "seconds" of work}."""
        return {"outcome": json.dumps({**self._next(), "seconds": self.seconds + time.monotonic() - self.since})}

    def _next(self) -> dict[str, Any]:
        while True:
            try:
                if self.events is None:
                    self.seconds += time.monotonic() - self.since
                    group = self.client.lease(self.owner)
                    self.since = time.monotonic()  # waiting for workers is not work
                    self.events = group.run("trial", self.payload)
                for event in self.events:
                    if "rung" in event:
                        return {"event": {**event, **self.start}}
                    if "ready" in event:
                        self.start = {"start_seconds": time.time() - self.payload["proposed"]}
                return {"failed": "the trial ended before its last rung"}
            except GroupDiedError as died:
                self.events = None
                if not self.restarts:
                    return {"failed": f"its workers died twice: {died}"}
                self.restarts -= 1
            except JobError as failed:
                return {"failed": str(failed), "traceback": failed.traceback}
            except UserError as mistake:
                return {"failed": str(mistake)}
            except PoolError as broken:
                return {"broken": str(broken)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep: the worker checkpoints, the run folder records."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """A restarted trial asks its job again; the job continues from its own checkpoint."""
