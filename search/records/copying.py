"""Bringing files of one file system to another, told apart by content and cheap where nothing has changed.

What was brought is listed at the target, with its checksum and how both files looked then (`Side.look`). A
file that looks as it did on both sides is unchanged and not read; any other is read, and copied when its
checksum differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow
from pyarrow import fs

from trainable.storage.object_store import FLAT, opened, plain_names

LISTING = ".synced.json"
"""At the target: name -> {"sha256", "source", "target"}, the last two as `Side.look` gave them."""
YOUNG_S = 2.0
"""A source file that changed so many seconds before it was listed may change again unseen, within one tick of
its clock: the next call reads it."""
CHUNK = 2**20

Look = list[Any]


@dataclass
class Side:
    """A folder or a URI, with the files below it."""

    place: str

    def __post_init__(self) -> None:
        self.fs, path = opened(self.place)
        self.base = path.rstrip("/")
        self.local = isinstance(self.fs, fs.LocalFileSystem)
        self.name = self.base if self.local else self.place

    def at(self, name: str) -> str:
        """The path of a file, for the file system."""
        return f"{self.base}/{name}"

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return self.fs.get_file_info(self.at(name)).type == fs.FileType.File

    def looks(self) -> dict[str, Look]:
        """How every file looks from outside: place and size first, then what changes when it is written. On a
        disk that is also its inode and the time of that inode's change, which nobody can set back."""
        found = self.fs.get_file_info(fs.FileSelector(self.base, recursive=True, allow_not_found=True))
        files = (info for info in found if info.type == fs.FileType.File)
        return plain_names({info.path[len(self.base) + 1:]: self._look(info) for info in files}, self.place)

    def _look(self, info: fs.FileInfo) -> Look:
        look = [self.name, info.size, info.mtime_ns]
        if self.local:
            with suppress(FileNotFoundError):  # replaced under our hands: whoever opens it will see
                stat = os.stat(info.path)
                look = [self.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        return look

    def sha256(self, name: str) -> str:
        """Of a file's bytes, hex."""
        found = hashlib.sha256()
        with self.fs.open_input_stream(self.at(name)) as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
        return found.hexdigest()


def bring(files: Mapping[str, Look], source: Side, target: Side) -> tuple[int, int]:
    """Copy those of the source's files (as `looks` gave them), in this order, whose content the target lacks:
    files and bytes that were copied.

    A file that grows meanwhile is copied as far as it is then, one that vanishes is passed over. Raises
    OSError and what else pyarrow raises; what was copied until then is listed.
    """
    begun, there, listing = time.time_ns(), target.looks(), _listing(target)
    done: dict[str, dict[str, Any]] = {}
    count = size = 0
    try:
        for name, look in files.items():
            other, entry = there.get(name), listing.get(name, {})
            known = entry.get("sha256") if other and entry.get("target") == other else None
            if known and entry.get("source") == look:
                continue
            try:
                digest = source.sha256(name) if other and other[1] == look[1] else None
                if digest is None or digest != (known or target.sha256(name)):
                    digest, copied = _copy(name, source, target)
                    count, size = count + 1, size + copied
            except FileNotFoundError:
                if source.has(name):
                    raise
                continue
            done[name] = {"sha256": digest, "source": None if _young(look, begun) else look}
    finally:
        if done:
            with suppress(OSError, pyarrow.ArrowException):  # without the list the next call reads more
                after = target.looks()
                news = {name: {**entry, "target": after.get(name)} for name, entry in done.items()}
                _write(target, listing | news)
    return count, size


def _young(look: Look, now: int) -> bool:
    changed = look[2:4]
    return None in changed or max(changed) > now - YOUNG_S * 1e9


def _copy(name: str, source: Side, target: Side) -> tuple[str, int]:
    """Checksum and bytes of what arrived."""
    if target.fs.type_name not in FLAT:
        target.fs.create_dir(target.at(name).rpartition("/")[0], recursive=True)
    found, size = hashlib.sha256(), 0
    with (source.fs.open_input_stream(source.at(name)) as file,
          target.fs.open_output_stream(target.at(name)) as out):
        while chunk := file.read(CHUNK):
            found.update(chunk)
            out.write(chunk)
            size += len(chunk)
    return found.hexdigest(), size


def _listing(target: Side) -> dict[str, dict[str, Any]]:
    """What is listed; nothing where there is no list, or none that can be read."""
    try:
        with target.fs.open_input_stream(target.at(LISTING)) as file:
            listing = json.loads(file.read())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    entries = listing if isinstance(listing, dict) else {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


def _write(target: Side, listing: dict[str, dict[str, Any]]) -> None:
    with target.fs.open_output_stream(target.at(LISTING)) as out:
        out.write(json.dumps(listing, indent=0, sort_keys=True).encode())
