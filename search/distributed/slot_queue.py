"""Where the driver lays out work and slots pick it up. A slot is a Ray Tune trial that lives as long as
the run and carries out one trial of the search after the other: Tune needs about 0.4 s to end one of its own
trials and begin the next.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from trainable.messages import TrialWork, Work

_PROCESSES = 2  # processes that a slot may lose with one trial until the trial is to blame


class SlotQueue:
    """One queue of work per slot. A slot keeps its trial until that is `done`: one whose process died
    meanwhile is given it again."""

    def __init__(self) -> None:
        self.queues: defaultdict[int, asyncio.Queue[Work]] = defaultdict(asyncio.Queue)
        self.taken: dict[int, TrialWork] = {}
        self.restarts_left: dict[int, int] = {}

    async def assign(self, slot: int, work: Work) -> None:
        """Lay out work for a slot."""
        self.queues[slot].put_nowait(work)

    async def done(self, slot: int) -> None:
        """The slot's trial has ended."""
        self.taken.pop(slot, None)

    async def next_work(self, slot: int, fresh: bool) -> Work:
        """What a slot does now; waits for it. `fresh`: its process has just started, so it knows
        nothing of its trial."""
        queue = self.queues[slot]
        if fresh and slot in self.taken:
            later = [queue.get_nowait() for _ in range(queue.qsize())]
            later = [work for work in later if work["op"] != "next"]
            for work in later:
                queue.put_nowait(work)
            if not later:
                self.restarts_left[slot] -= 1
                if not self.restarts_left[slot]:
                    return {"op": "blamed", "number": self.taken[slot]["number"]}
                return self.taken[slot]
        work = await queue.get()
        if work["op"] == "trial":
            self.taken[slot], self.restarts_left[slot] = work, _PROCESSES
        return work
