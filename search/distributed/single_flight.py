"""Of several trials that need the same thing, one makes it and the others wait for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

Answer = dict[str, Any]
SUFFIX = ":shared"
"""After the name of a trial: the owner of the group on which it makes what it shares."""


@dataclass
class _Flight:
    """A thing that is being made, by whom, and who waits for it."""

    maker: str
    waiting: list[tuple[str, asyncio.Future[Answer]]] = field(default_factory=list)


class SingleFlight:
    """By name: what was made, what could not be made, and what is being made. Part of an async actor."""

    def __init__(self) -> None:
        self.settled: dict[str, Answer] = {}
        self.flights: dict[str, _Flight] = {}

    async def claim(self, name: str, owner: str) -> Answer:
        """{"make": True} for the one that is to make it (who asks again, its process having died, is told so
        again), and {"path"} or {"failed": why} when it is settled; waits for that."""
        if name in self.settled:
            return self.settled[name]
        flight = self.flights.setdefault(name, _Flight(owner))
        if flight.maker == owner:
            return {"make": True}
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        flight.waiting.append((owner, waiter))
        return await waiter

    async def settle(self, name: str, answer: Answer) -> None:
        """It was made, or cannot be: all who wait learn it, and all who will ask."""
        self.settled[name] = answer
        flight = self.flights.pop(name, None)
        for _, waiter in flight.waiting if flight else ():
            _set(waiter, answer)

    async def withdraw(self, owner: str) -> None:
        """The owner neither makes nor waits for anything any more; the next in line makes what it did not."""
        for name, flight in list(self.flights.items()):
            for holder, waiter in flight.waiting:
                if holder == owner:
                    _set(waiter, {"failed": "the trial has ended"})
            flight.waiting = [(holder, waiter) for holder, waiter in flight.waiting if holder != owner]
            if flight.maker != owner:
                continue
            if not flight.waiting:
                del self.flights[name]
                continue
            flight.maker = flight.waiting[0][0]
            for holder, waiter in flight.waiting:
                if holder == flight.maker:  # all of them: its process may have been started again meanwhile
                    _set(waiter, {"make": True})
            flight.waiting = [(holder, waiter) for holder, waiter in flight.waiting if holder != flight.maker]


def _set(waiter: asyncio.Future[Answer], answer: Answer) -> None:
    if not waiter.done():
        waiter.set_result(answer)
