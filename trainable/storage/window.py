"""One node's turnstile: many compute, or one takes times."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 20.0
"""Seconds that whoever wants to take times waits for the others at most."""
_LOOK = 0.005


class Window:
    """Times are taken while nothing else that computes for this user on this node goes on.

    Two files, locked by the system, which frees them when a process ends, however it ends. `busy` is shared
    by all that compute. Who wants to take times closes `gate`, and has `busy` when the others have come to
    their next `pause`, where they wait at the gate. A `folder` of None is a window that nobody else knows of.
    """

    def __init__(self, folder: Path | None, patience: float = PATIENCE):
        self.patience, self._depth = patience, 0
        self._files = None if folder is None else tuple(_opened(folder / name) for name in ("gate", "busy"))

    @classmethod
    def of_node(cls) -> Window:
        """The one that this user's processes on this node share; one of its own where no folder of the
        user alone can be had."""
        folder = Path(tempfile.gettempdir()) / f"qdlm-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
            return cls(folder if own else None)
        except OSError:
            return cls(None)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Computes inside, and lets others take times at each `pause`."""
        self._depth += 1
        if self._depth == 1:
            self._enter()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._leave()

    def pause(self) -> None:
        """Wait while somebody takes times. For whoever computes, at a step's end."""
        if self._files is None or not self._depth:
            return
        gate, _ = self._files
        if _lock(gate, fcntl.LOCK_SH, 0.0):
            fcntl.flock(gate, fcntl.LOCK_UN)
            return
        self._leave()
        self._enter()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Takes times inside. Whether all others wait: they are waited for no longer than `patience`."""
        if self._files is None:
            yield True
            return
        gate, busy = self._files
        self._leave()
        until = time.monotonic() + self.patience
        alone = _lock(gate, fcntl.LOCK_EX, until) and _lock(busy, fcntl.LOCK_EX, until)
        try:
            yield alone
        finally:
            fcntl.flock(busy, fcntl.LOCK_UN)
            if self._depth:
                _lock(busy, fcntl.LOCK_SH, until + self.patience)
            fcntl.flock(gate, fcntl.LOCK_UN)

    def _enter(self) -> None:
        """Through the gate. Who is not let through in three times the patience of those inside goes on."""
        if self._files is None:
            return
        gate, busy = self._files
        until = time.monotonic() + 3 * self.patience
        if _lock(gate, fcntl.LOCK_SH, until):
            _lock(busy, fcntl.LOCK_SH, until)
            fcntl.flock(gate, fcntl.LOCK_UN)

    def _leave(self) -> None:
        if self._files is not None:
            fcntl.flock(self._files[1], fcntl.LOCK_UN)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _lock(file: int, how: int, until: float) -> bool:
    """Whether the lock was had by then; tried once at least."""
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_LOOK)
