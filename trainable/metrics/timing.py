"""Times of calls that take turns: the clock behind `latency_ms` and `qdlm bench`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

Call = Callable[[], object]


class Times(NamedTuple):
    """Seconds of calls that took turns, [calls, repeats] each.

    `wall` is what passed on the clock. `steady` is what a call takes where nothing is in its way: with one
    thread on a CPU the time that the processor spent on it, since whoever else the processor serves meanwhile
    takes no part in that; with more threads, or on another device, the wall time.
    """

    wall: np.ndarray
    steady: np.ndarray


def seconds(call: Call, device: torch.device | str) -> tuple[float, float]:
    """Wall time of one call, what it put on the device included, and the processor's time of this thread."""
    _wait(device)
    begun, worked = time.perf_counter(), time.thread_time()
    call()
    _wait(device)
    return time.perf_counter() - begun, time.thread_time() - worked


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def warm_up(calls: Sequence[Call], device: torch.device | str,
            between: Callable[[], None] | None = None) -> None:
    """One call each, in which graphs are made and whatever else is made once; `between` before each."""
    for call in calls:
        if between is not None:
            between()
        seconds(call, device)


def interleaved(calls: Sequence[Call], repeats: int, device: torch.device | str, warm: bool = False) -> Times:
    """Times of each call, after a `warm_up` where they have had none.

    The calls take turns within one window and change their order every time (A B, B A, ...), so that what
    else the machine does falls on all alike.
    """
    taken = np.empty((len(calls), repeats, 2))
    if not warm:
        warm_up(calls, device)
    for repeat in range(repeats):
        for which in range(len(calls)) if repeat % 2 == 0 else reversed(range(len(calls))):
            taken[which, repeat] = seconds(calls[which], device)
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    return Times(taken[..., 0], taken[..., 1] if alone else taken[..., 0])


def median_error(values: np.ndarray) -> float:
    """Standard error of the median, 1.2533 standard deviations over the root of the count:
    a guide, not a test."""
    return float(1.2533 * values.std(ddof=1) / np.sqrt(len(values)))


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the median from order statistics (binomial, normal approximation): holds
    for any distribution.

    Below 6 values no such interval exists; then the smallest and the largest are given.
    """
    ordered, n = np.sort(values), len(values)
    low = max(0, math.floor((n - 1.96 * math.sqrt(n)) / 2))
    return float(ordered[low]), float(ordered[n - 1 - low])
