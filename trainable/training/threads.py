"""Processors that idle meanwhile, as further threads of a training run on a CPU.

Noise is drawn by one generator, whatever the number of threads: only the order in which floats are summed
differs. Whether more threads are faster depends on the model and on what else the machine does, so it is
measured: a run tries twice as many as long as that is quicker, and keeps the number that took least a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import torch

EVERY = 2.0
"""Seconds between looks at who idles."""
RETRY = 20
"""Looks after which more threads that were slower are tried once more: the machine may have been busy."""


class BorrowedThreads:
    """Called at each step's end. `spare` tells how many processors may be had beside the `own` ones."""

    def __init__(self, own: int, spare: Callable[[], int], every: float = EVERY,
                 clock: Callable[[], float] = time.monotonic):
        self.own, self.spare, self.every, self._clock = own, spare, every, clock
        self._begun, self._steps = 0.0, 0
        self._kept = 0
        self._taken: dict[int, float] = {}
        """Threads -> seconds a step when they were last tried."""

    def __call__(self) -> None:
        self._steps += 1
        passed = self._clock() - self._begun
        if passed < self.every:
            return
        self._taken[torch.get_num_threads()] = passed / self._steps
        self._set(self._best(self.own + self.spare()))

    def _best(self, most: int) -> int:
        """The quickest number that was tried, or twice as many where more were not."""
        tried = [count for count in self._taken if count <= most]
        best = min(tried, key=self._taken.__getitem__, default=self.own)
        if best == max(tried, default=best):
            return min(2 * best, most)
        self._kept += 1
        if self._kept % RETRY == 0:
            self._taken = {best: self._taken[best]}
        return best

    def _set(self, count: int) -> None:
        if count != torch.get_num_threads():
            torch.set_num_threads(count)
        self._begun, self._steps = self._clock(), 0

    def __enter__(self) -> BorrowedThreads:
        self._set(self.own)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        torch.set_num_threads(self.own)
