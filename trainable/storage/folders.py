"""Folders that are whole or absent: written aside, listed with checksums, renamed into place,
verified when opened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from spaces.errors import UserError

MANIFEST = "manifest.json"
MOST_MANIFEST = 16 << 20
"""Bytes of a manifest that is read."""
ABANDONED = 24 * 3600
"""Seconds after which a half-written folder is taken for a killed process's (its pid may be
another machine's)."""


def digest(path: Path) -> str:
    """sha256 of a file's bytes, hex. A file that is as it was (device, inode, size, times) is not read
    again by the process."""
    found = path.stat()
    return _digest(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=4096)
def _digest(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(*parts: object) -> str:
    """16 hex digits that identify JSON-able parts; equal parts give equal keys."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain_name(name: str) -> bool:
    """Whether a name from outside stays below the folder that it is put into: parts between slashes, none of
    them empty, `.` or `..`, without control characters."""
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def write_manifest(folder: Path) -> None:
    """List every file of `folder` with its size and sha256 in manifest.json."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    listing = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest(path)}
               for path in files}
    (folder / MANIFEST).write_text(json.dumps(listing, indent=1))


def damage(folder: Path, needed: Sequence[str] = (), below: float = math.inf) -> str | None:
    """What is wrong with a folder written by `whole_folder`, in one phrase, or None. `needed`: files that
    will be read, so that they have to be listed; `below`: files of so many bytes are not read."""
    try:
        if not (folder / MANIFEST).is_file():  # a pipe would be waited for
            return f"{folder / MANIFEST} is missing or no file"
        if (folder / MANIFEST).stat().st_size > MOST_MANIFEST:
            return f"{folder / MANIFEST} has more than {MOST_MANIFEST:,} bytes"
        listing = json.loads((folder / MANIFEST).read_text())
        for name in needed:
            if name not in listing:
                return f"{folder / MANIFEST} does not list {name}"
        for name, entry in listing.items():
            path = folder / name
            if not plain_name(name):
                return f"{folder / MANIFEST} names {name!r}, which is not a file of the folder"
            if not path.is_file():
                return f"{path} is {'not a file' if path.exists() else 'missing'}"
            if path.stat().st_size != entry["bytes"]:
                return f"{path} has {path.stat().st_size:,} of {entry['bytes']:,} bytes"
            if entry["bytes"] < below and digest(path) != entry["sha256"]:
                return f"{path} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{folder / MANIFEST} cannot be read ({type(error).__name__})"
    return None


def partial_name(target: str, process: int | str) -> str:
    """What `whole_folder` has a process write into, beside the target."""
    return f".{target}.{process}.partial"


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Write into the yielded folder; on success it becomes `target` in one rename, on failure
    nothing is left.

    When another process finished `target` first, theirs stays and ours is dropped.
    """
    aside = target.with_name(partial_name(target.name, os.getpid()))
    for left in target.parent.glob(partial_name(target.name, "*")):  # by a process that was killed
        if left == aside or time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        write_manifest(aside)
        _share(aside)
        try:
            aside.rename(target)
        except OSError:
            if not (target / MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _share(folder: Path) -> None:
    """Give every file the mode of one that was plainly opened: safetensors writes 0600 whatever the umask,
    and others who share the storage could not read the weights."""
    mode = (folder / MANIFEST).stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)


def verified(folder: Path) -> bool:
    """True when `folder` exists whole, False when it does not exist.

    A damaged folder is moved aside, so that the next run rebuilds it, and reported as `UserError`.
    """
    if not folder.exists():
        return False
    wrong = damage(folder)
    if wrong is None:
        return True
    moved = folder.with_name(f"{folder.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.rename(moved)
    raise UserError(f"damaged cache: {wrong}; moved aside to {moved.name}, run the same command again to "
                    "rebuild it")
