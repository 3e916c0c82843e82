"""Copying a run between folders and object stores: whatever pyarrow has a file system for (file, s3, gs, hdfs URIs)."""

from __future__ import annotations

from pathlib import Path

import pyarrow
from pyarrow import fs

from search.records import EVENTS, META, SPACE
from spaces.errors import UserError

SKIPPED = ("run.lock", "scratch", "trials")
"""What another machine has no use for: the lock, Ray's files, checkpoints of trials that run now."""
ORDER = (EVENTS, META, SPACE)
"""Copied last and in this order, so that a folder that has a space holds all that it speaks of."""


def opened(place: str) -> tuple[fs.FileSystem, str]:
    """File system and path of a URI or a folder. Raises `UserError` for a scheme that is unknown."""
    try:
        if "://" in place:
            return fs.FileSystem.from_uri(place)
        return fs.LocalFileSystem(), str(Path(place).resolve())
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{place}: {str(error).splitlines()[0]}") from error


def sync(source: str, target: str) -> tuple[int, int]:
    """Copy what is new or has another size from one run folder to the other: (files copied, bytes).

    Nothing is deleted at the target. A run that goes on may be copied: its events are whole lines but for the last, which
    readers pass over. Raises `UserError` when the source is no run or a place cannot be reached.
    """
    here, origin = opened(source)
    there, goal = opened(target)
    origin, goal = origin.rstrip("/"), goal.rstrip("/")
    try:
        if here.get_file_info(f"{origin}/{SPACE}").type != fs.FileType.File:
            raise UserError(f"{source} is not a run folder: no {SPACE}")
        files = [info for info in here.get_file_info(fs.FileSelector(origin, recursive=True))
                 if info.type == fs.FileType.File and _wanted(info.path[len(origin) + 1:])]
        names = {info.path[len(origin) + 1:]: info.size for info in files}
        known = {info.path[len(goal) + 1:]: info.size
                 for info in there.get_file_info(fs.FileSelector(goal, recursive=True, allow_not_found=True))}
        last = [name for name in ORDER if name in names]
        copied = [name for name in [*sorted(set(names) - set(ORDER)), *last] if name in ORDER or known.get(name) != names[name]]
        for name in copied:
            there.create_dir(f"{goal}/{name}".rpartition("/")[0], recursive=True)
            fs.copy_files(f"{origin}/{name}", f"{goal}/{name}", source_filesystem=here, destination_filesystem=there)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot copy {source} to {target}: {str(error).splitlines()[0]}") from error
    return len(copied), sum(names[name] for name in copied)


def _wanted(name: str) -> bool:
    parts = name.split("/")
    return parts[0] not in SKIPPED and not parts[-1].startswith(".")
