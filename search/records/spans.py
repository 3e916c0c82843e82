"""How long a run has worked, from its entries alone: each session's span by its own monotonic clock.

Entries carry two times. `time` (Unix seconds) is for people, and jumps when somebody sets the clock; `clock`
counts from when the session's writer took the run, and does not. Records of before `clock` was written are
counted by `time`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

CLOCK = "clock"


class WorkedSeconds:
    """Seconds that a run has worked, pauses between its sessions left out; entries are given in order.

    A session runs from `run_started` to its last entry: so a killed one counts too.
    """

    def __init__(self) -> None:
        self.earlier = self.session = 0.0
        self._start: Mapping[str, Any] | None = None

    def add(self, entry: Mapping[str, Any]) -> float:
        """Take in one entry; the seconds that the run had worked by then."""
        if self._start is None or entry.get("event") == "run_started":
            self.earlier, self.session, self._start = self.total, 0.0, entry
        self.session = max(self.session, _between(self._start, entry))
        return self.total

    @property
    def total(self) -> float:
        """Of all sessions so far."""
        return self.earlier + self.session


def _between(start: Mapping[str, Any], entry: Mapping[str, Any]) -> float:
    """Seconds from one entry of a session to another; 0 where they cannot be of one session."""
    ticks = [_number(one.get(CLOCK)) for one in (start, entry)]
    if None in ticks and ticks != [None, None]:  # an older session's, and the next one's
        return 0.0
    first, last = ticks if ticks[0] is not None else [_number(one.get("time")) for one in (start, entry)]
    return 0.0 if first is None or last is None else max(0.0, last - first)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
