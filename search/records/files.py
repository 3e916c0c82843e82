"""Files that are replaced in one step, and the lock that lets one process at a time write a run."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spaces.errors import RunError, UserError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
"""Errors of the disk, whoever writes."""


def unwritable(path: Path, error: OSError) -> RunError:
    """What a run that cannot be written any more ends with."""
    why = os.strerror(error.errno) if error.errno else error
    return RunError(f"{path}: cannot be written: {why}; make room, then go on with --resume")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed
    when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Return when the disk has the content of a file, or the entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RunLock:
    """An exclusive lock (flock) on a file; it goes when its process ends, however that happens."""

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None

    @property
    def owned(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(self, patience: float = 0.5) -> None:
        """Take the lock. Raises `UserError` naming the holder when it is not free within
        `patience` seconds."""
        if self.owned:
            return
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write to {self.path.parent}: {error.strerror or error}") from error
        # a reader that looks whether the run lives holds it for a moment
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "unknown"
                    os.close(handle)
                    raise UserError(f"{self.path.parent} is being written by another process ({holder}); "
                                    "wait for it or stop it first") from None
                time.sleep(0.02)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._handle = handle

    def release(self) -> None:
        """Let go; does nothing when not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def is_held(self) -> bool:
        """Whether any process holds the lock, this one included."""
        if self.owned:
            return True
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
