"""A run whose storage is a URI: its driver writes a folder of its own node, and this keeps the URI in step.

The journals of a run are appended to and synced to disk, which object stores cannot do. What ended is at
the URI some seconds later. Nodes put checkpoints and artifacts there themselves (`trainable.storage.depot`).
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from search.records.run_folder import EVENTS, LEASE, LEASE_S, META, SPACE, STUDY, RunFolder
from spaces.errors import RunError, UserError
from spaces.shell import program, quoted
from spaces.uris import node_folder, parent
from trainable.messages import DepotSettings
from trainable.storage.object_store import Store, StoreError

ARTIFACTS, TRIALS = "artifacts", "trials"
ELSEWHERE = ("run.lock", "scratch", "again", ARTIFACTS, TRIALS)
"""What is not the driver's to copy."""
LAST = (STUDY, EVENTS, META, SPACE)
"""Copied last and in this order: the records are never behind the study, and what has a space has all
that it speaks of."""
REST, BEAT = 2.0, 20.0
"""Seconds at least between two copies, and at most between two signs of life."""
SHARE = 10
"""Times what a copy took that passes until the next."""
FINAL_TRIES = 6
"""Of the last copy; each tries every file some times itself."""


class Mirror:
    """Keeps URI/NAME like the run folder, in a thread of its own. `warn` gets one line when that fails,
    and one when it works again; the search goes on meanwhile."""

    def __init__(self, uri: str, folder: Path, warn: Callable[[str], None], store: Store | None = None):
        """`uri`: of the run; `folder`: its folder here."""
        self.uri, self.folder, self.warn = uri, Path(folder), warn
        self.store = store or Store(uri, tries=2)
        self.sent: dict[str, tuple[int, int]] = {}
        self._gone: set[str] = set()
        self._artifacts: set[int] = set()
        self._lock, self._wake, self._ending = threading.Lock(), threading.Event(), threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self, fresh: bool) -> Mirror:
        """Put what there is, and begin. Raises `UserError` when the store cannot be written, or holds
        a run of the name of one that is `fresh`."""
        if fresh and self.store.has(SPACE):
            raise UserError(f"{self.uri}: another run of this name was begun in the same second; start again")
        self._copy()
        self._thread.start()
        return self

    def drop(self, names: Iterable[str]) -> None:
        """Have files or folders at the URI deleted."""
        with self._lock:
            self._gone.update(names)
        self._wake.set()

    def trial_ended(self, number: int, wanted: set[int]) -> None:
        """There is something new, and no need any more for what the trial went on from, and for
        artifacts of others than `wanted`."""
        self._artifacts.add(number)
        lost, self._artifacts = self._artifacts - wanted, self._artifacts & wanted
        self.drop([f"{TRIALS}/trial-{number:04d}", *(f"{ARTIFACTS}/trial-{each:04d}" for each in lost)])

    def fetch(self, name: str, to: Path) -> None:
        """Bring one file of the URI to a place in the folder, if it can be had."""
        try:
            self.store.get(name, self.folder / to)
        except StoreError as error:
            self.warn(str(error))

    def finish(self, members: Iterable[str]) -> None:
        """Put everything, delete what is left of trials but the artifacts of `members`, and end.
        Raises `RunError` when the store stays out of reach: then the folder here holds what it lacks."""
        self._stop()
        wanted = set(members)
        for attempt in range(FINAL_TRIES):
            try:
                self.drop([TRIALS, *(f"{ARTIFACTS}/{name}"
                                     for name in self.store.folders(ARTIFACTS) if name not in wanted)])
                self._copy()
                self.store.remove(LEASE)
                return
            except StoreError as error:
                if attempt == FINAL_TRIES - 1:
                    raise RunError(f"{error}; the records are in {self.folder}: put them there with "
                                   f"{program()} {quoted('sync', self.folder, self.uri)}") from error
            time.sleep(REST * 2**attempt)

    def discard(self) -> None:
        """The run is not to be: delete what was put."""
        self._stop()
        with suppress(StoreError):  # what it was that failed is told already
            self.store.remove("")

    def _stop(self) -> None:
        self._ending.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        rest = REST
        while not self._ending.wait(rest):
            self._wake.wait(max(0.0, BEAT - rest))
            self._wake.clear()
            if self._ending.is_set():
                return
            began = time.monotonic()
            try:
                self._copy()
            except (StoreError, OSError) as error:
                if not self._failing:
                    self.warn(f"{error}; the search goes on, and it is tried again")
                self._failing = True
            else:
                if self._failing:
                    self.warn(f"{self.uri}: up to date again")
                self._failing = False
            rest = max(REST, SHARE * (time.monotonic() - began))

    def _copy(self) -> None:
        """What is new since the last copy, and a sign of life."""
        self.store.write(LEASE, _lease())
        files = {path.relative_to(self.folder).as_posix(): path
                 for path in self.folder.rglob("*") if path.is_file()}
        names = [name for name in files
                 if name.split("/")[0] not in ELSEWHERE and not name.rpartition("/")[2].startswith(".")]
        for name in [*sorted(set(names) - set(LAST)), *(name for name in LAST if name in names)]:
            try:
                stat = files[name].stat()
                if self.sent.get(name) != (stat.st_size, stat.st_mtime_ns):
                    self.store.put(files[name], name)
                    self.sent[name] = (stat.st_size, stat.st_mtime_ns)
            except FileNotFoundError:
                continue  # replaced or removed under our hands; the next copy has it
        with self._lock:
            gone, self._gone = self._gone, set()
        for name in sorted(gone):
            try:
                self.store.remove(name)
            except StoreError:
                self.drop([name])
                raise


def _lease() -> bytes:
    return (json.dumps({"by": f"process {os.getpid()} on {socket.gethostname()}", "time": time.time()})
            .encode())


def _age(content: bytes) -> tuple[float, str]:
    """Age in seconds, and whose it is; without end where it cannot be read: it keeps nobody out."""
    try:
        lease = json.loads(content)
        time_of = float(lease.get("time", 0.0))
        return time.time() - time_of if math.isfinite(time_of) else math.inf, str(lease.get("by"))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return math.inf, ""


def resume_from_uri(uri: str, say: Callable[[str], None]) -> Path:
    """The run at a URI in this node's folder, to go on with. Raises `UserError` when there is none,
    or another process works on it.

    What this node wrote and could not put there is kept when the URI knows nothing newer; otherwise the URI's
    records count and this node's are moved aside.
    """
    above, name = parent(uri)
    folder, store = node_folder("stores", above) / name, Store(uri)
    remote = store.read(EVENTS)
    if remote is None or not store.has(SPACE):
        raise UserError(f"{uri} is not a run: no {SPACE if remote is not None else EVENTS}")
    age, by = _age(store.read(LEASE) or b"{}")
    if age < LEASE_S and not by.endswith(f" on {socket.gethostname()}"):
        raise UserError(f"{uri} is being written by {by}; if that is gone, wait {LEASE_S - age:.0f} s")
    if (folder / EVENTS).is_file():
        if RunFolder.open(folder).is_live():
            raise UserError(f"{uri} is being written by another process of this machine")
        local = (folder / EVENTS).read_bytes()
        if local.startswith(remote):
            return folder
        aside = folder.with_name(f"{name}.{time.strftime('%Y%m%d-%H%M%S')}")
        folder.rename(aside)
        say(f"{uri} was gone on with elsewhere; this machine's older records are in {aside}")
    for file in store.sizes():
        if file.split("/")[0] not in ELSEWHERE and file != LEASE:
            store.get(file, folder / file)
    say(f"{uri} fetched to {folder}")
    return folder


def check_writable(uri: str) -> None:
    """Raises `UserError` unless something can be put at a URI, read and deleted."""
    store, name = Store(uri, tries=2), f".probe-{socket.gethostname()}-{os.getpid()}"
    store.write(name, b"qdlm")
    if store.read(name) != b"qdlm":
        raise UserError(f"{uri}: what was written cannot be read")
    store.remove(name)


def depot_settings(uri: str) -> DepotSettings:
    """What the workers' depots are told."""
    return {"uri": uri, "root": str(node_folder("stores", uri))}
