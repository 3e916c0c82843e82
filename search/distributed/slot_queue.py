"""Where the driver lays out work and slots pick it up. A slot is a Ray Tune trial that lives as long as the run and carries
out one trial of the search after the other: Tune needs about 0.4 s to end one of its own trials and begin the next.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

Work = dict[str, Any]
_LIVES = 2  # processes that a slot may lose with one trial until the trial is to blame


class Desk:
    """One tray per slot. Work: {"op": "trial", "number", "owner", "payload"} | {"op": "next"}, the next rung of the same |
    {"op": "leave"}. A slot keeps its trial until that is `done`: one whose process died meanwhile is given it again."""

    def __init__(self) -> None:
        self.trays: defaultdict[int, asyncio.Queue[Work]] = defaultdict(asyncio.Queue)
        self.taken: dict[int, Work] = {}
        self.lives: dict[int, int] = {}

    async def assign(self, slot: int, work: Work) -> None:
        """Lay out work for a slot."""
        self.trays[slot].put_nowait(work)

    async def done(self, slot: int) -> None:
        """The slot's trial has ended."""
        self.taken.pop(slot, None)

    async def work(self, slot: int, fresh: bool) -> Work:
        """What a slot does now; waits for it. `fresh`: its process has just started, so it knows nothing of its trial.

        {"op": "blamed", "number"} instead of a trial that has cost the slot too many processes.
        """
        tray = self.trays[slot]
        if fresh and slot in self.taken:
            later = [tray.get_nowait() for _ in range(tray.qsize())]
            later = [work for work in later if work["op"] != "next"]
            for work in later:
                tray.put_nowait(work)
            if not later:
                self.lives[slot] -= 1
                return self.taken[slot] if self.lives[slot] else {"op": "blamed", "number": self.taken[slot]["number"]}
        work = await tray.get()
        if work["op"] == "trial":
            self.taken[slot], self.lives[slot] = work, _LIVES
        return work
