"""Copying a run between folders and object stores: whatever pyarrow has a file system for (file, s3, gs, abfs, hdfs URIs)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow
from pyarrow import fs

from search.records.run_folder import EVENTS, LEASE, META, SPACE, RunFolder
from spaces.errors import UserError
from spaces.uris import joined, node_folder, parent
from trainable.storage.folders import damage
from trainable.storage.object_store import FLAT, Store, opened

SKIPPED = ("run.lock", LEASE, "scratch", "trials", "again")
"""What another machine has no use for: the lock, Ray's files, checkpoints of trials that run now."""
ORDER = (EVENTS, META, SPACE)
"""Copied last and in this order, so that a folder that has a space holds all that it speaks of."""


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
                 if info.type == fs.FileType.File and _is_synced(info.path[len(origin) + 1:])]
        names = {info.path[len(origin) + 1:]: info.size for info in files}
        known = {info.path[len(goal) + 1:]: info.size
                 for info in there.get_file_info(fs.FileSelector(goal, recursive=True, allow_not_found=True))}
        last = [name for name in ORDER if name in names]
        copied = [name for name in [*sorted(set(names) - set(ORDER)), *last] if name in ORDER or known.get(name) != names[name]]
        for name in copied:
            if there.type_name not in FLAT:
                there.create_dir(f"{goal}/{name}".rpartition("/")[0], recursive=True)
            fs.copy_files(f"{origin}/{name}", f"{goal}/{name}", source_filesystem=here, destination_filesystem=there)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot copy {source} to {target}: {str(error).splitlines()[0]}") from error
    return len(copied), sum(names[name] for name in copied)


def _is_synced(name: str) -> bool:
    parts = name.split("/")
    return parts[0] not in SKIPPED and not parts[-1].startswith(".")


def fetch_run(uri: str, say: Callable[[str], None] | None = None) -> Path:
    """A copy of the run at a URI to read on this machine, without its artifacts, brought up to date: what is new comes.

    Raises `UserError` when there is no run. `say` gets one line.
    """
    above, name = parent(uri)
    folder, store = node_folder("mirrors", above) / name, Store(uri, tries=3)
    sizes = store.sizes()
    if SPACE not in sizes:
        raise UserError(f"{uri} is not a run: no {SPACE}")
    began, size = time.monotonic(), 0
    wanted = [file for file in sizes if file == LEASE or _is_synced(file) and not file.startswith("artifacts/")]
    for file in sorted(wanted, key=lambda file: (file in ORDER, file)):
        at = folder / file
        if not (file.startswith("samples/") and at.is_file() and at.stat().st_size == sizes[file]):
            store.get(file, at)
            size += sizes[file]
    if LEASE not in sizes:
        (folder / LEASE).write_text('{"time": 0}')  # its writer is gone
    if say:
        say(f"{joined(uri)} fetched to {folder} ({size / 1e6:.1f} MB, {time.monotonic() - began:.1f} s)")
    RunFolder.open(folder)
    return folder


def fetch_artifact(uri: str, say: Callable[[str], None]) -> Path:
    """A copy of the exported model at a URI, RUN/artifacts/trial-NNNN; fetched once. Raises `UserError` when there is none."""
    above, name = parent(uri)
    folder = node_folder("mirrors", above) / name
    if damage(folder) is not None:
        say(f"fetching {uri} to {folder}")
        Store(above, tries=3).get_folder(name, folder)
    return folder
