"""Copying a run between folders and object stores: whatever pyarrow has a file system for (file, s3, gs,
abfs, hdfs URIs)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow

from search.records.copying import Side, bring
from search.records.run_folder import EVENTS, LEASE, META, SPACE, RunFolder
from spaces.errors import UserError
from spaces.uris import joined, node_folder, parent
from trainable.storage.folders import damage
from trainable.storage.object_store import Store

SKIPPED = ("run.lock", LEASE, "scratch", "trials", "again")
"""What another machine has no use for: the lock, Ray's files, checkpoints of trials that run now."""
ORDER = (EVENTS, META, SPACE)
"""Copied last and in this order, so that a folder that has a space holds all that it speaks of."""


def sync(source: str, target: str) -> tuple[int, int]:
    """Copy what is new or has other content from one run folder to the other: (files copied, bytes).

    Nothing is deleted at the target. A run that goes on may be copied: its events are whole lines but for the
    last, which readers pass over. Raises `UserError` when the source is no run or a place cannot be reached.
    """
    origin, goal = Side(source), Side(target)
    try:
        if not origin.has(SPACE):
            raise UserError(f"{source} is not a run folder: no {SPACE}")
        files = origin.looks()
        names = {name for name in files if _is_synced(name)}
        ordered = [*sorted(names - set(ORDER)), *(name for name in ORDER if name in names)]
        return bring({name: files[name] for name in ordered}, origin, goal)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot copy {source} to {target}: {str(error).splitlines()[0]}") from error


def _is_synced(name: str) -> bool:
    parts = name.split("/")
    return parts[0] not in SKIPPED and not parts[-1].startswith(".")


def fetch_run(uri: str, say: Callable[[str], None] | None = None) -> Path:
    """A copy of the run at a URI to read on this machine, without its artifacts, brought up to date:
    what is new comes.

    Raises `UserError` when there is no run. `say` gets one line.
    """
    above, name = parent(uri)
    folder, store = node_folder("mirrors", above) / name, Store(uri, tries=3)
    sizes = store.sizes()
    if SPACE not in sizes:
        raise UserError(f"{uri} is not a run: no {SPACE}")
    began, size = time.monotonic(), 0
    wanted = [file
              for file in sizes if file == LEASE or _is_synced(file) and not file.startswith("artifacts/")]
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
    """A copy of the exported model at a URI, RUN/artifacts/trial-NNNN; fetched once. Raises `UserError`
    when there is none."""
    above, name = parent(uri)
    folder = node_folder("mirrors", above) / name
    if damage(folder) is not None:
        say(f"fetching {uri} to {folder}")
        Store(above, tries=3).get_folder(name, folder)
    return folder
