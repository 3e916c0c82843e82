"""A node's side of a storage at a URI: jobs work on folders of the node; what others need goes to the URI
and comes from it.

Nodes share no folder. Each has a root of its own (`spaces.uris.node_folder`), and a path below the driver's
root means the same place below each node's. `with_depot` puts this around a job, which knows nothing of it:

    what trials share   fetched when it is asked for, put there when made; known by its hash, once is enough
    a trial's folder    put there after each rung, fetched before the trial goes on elsewhere
    an artifact         put at its last place, `payload["keep"]`, before the trial's end is told
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from spaces.uris import node_folder
from trainable.storage.folders import MANIFEST, damage
from trainable.storage.object_store import Store, StoreError

TRAINING, UNFINISHED = ".training.pt", "training"
"""How the checkpoint of a base that trains is called in the cache, and where it lies at the URI."""
Job = Callable[[Any, Any], Iterator[Any]]
Event = dict[str, Any]


class Depot:
    """`uri`: the storage; `root`: the driver's folder for it, in which the paths of payloads and
    events are given."""

    def __init__(self, uri: str, root: str, store: Store | None = None):
        self.driver, self.root = root, str(node_folder("stores", uri))
        self.store = store or Store(uri)
        self.whole: set[str] = set()

    def to_node(self, value: Any) -> Any:
        """A payload with this node's paths."""
        return _moved(value, self.driver, self.root)

    def to_driver(self, event: Event) -> Event:
        """An event with the driver's paths."""
        return _moved(event, self.root, self.driver)

    def present(self, folder: Path) -> bool:
        """Whether what is shared was made before, by whichever node; it is here then."""
        return self.store.has(f"{self._name(folder)}/{MANIFEST}") and self.need(folder)

    def need(self, folder: Path) -> bool:
        """Have a shared folder here, whole; fetched unless it is. True, or `StoreError`."""
        if self._name(folder) not in self.whole:
            with _lock(folder) as handle:
                self._fetch(folder, handle)
            self.whole.add(self._name(folder))
        return True

    @contextmanager
    def borrowed(self, folder: Path) -> Iterator[None]:
        """An artifact, here as long as some worker of this node uses it."""
        with _lock(folder) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)
            while damage(folder) is not None:
                self._fetch(folder, handle)
                # between the two locks, another may have used it and be done
                fcntl.flock(handle, fcntl.LOCK_SH)
            try:
                yield
            finally:
                with suppress(BlockingIOError):  # others use it
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, folder: Path, handle: int) -> None:
        """The workers of one node fetch it once: the others wait, and find it."""
        fcntl.flock(handle, fcntl.LOCK_EX)
        if damage(folder) is not None:
            self.store.get_folder(self._name(folder), folder)

    def publish(self, folder: Path) -> None:
        """Put what this node made of what is shared, unless it is there."""
        name = self._name(folder)
        if not self.store.has(f"{name}/{MANIFEST}"):
            self.store.put_folder(folder, name)

    def restore(self, folder: Path) -> None:
        """What an earlier worker left of a trial, and nothing else: all ranks go on from the same step."""
        name = self._name(folder)
        left = self.store.sizes(name)
        if not left:
            shutil.rmtree(folder, ignore_errors=True)
        for file in left:
            self.store.get(f"{name}/{file}", folder / file)

    def save(self, folder: Path) -> None:
        """Put what a trial goes on from."""
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_file() and not path.name.endswith(".partial"):
                self.store.put(path, f"{self._name(folder)}/{path.name}")

    def training(self, cache: Path) -> dict[str, int]:
        """Checkpoints of bases that train, fetched where this node has none: names, with the time
        of the last change."""
        for name in self.store.sizes(f"{self._name(cache)}/{UNFINISHED}"):
            if not (cache / name).is_file():
                self.store.get(f"{self._name(cache)}/{UNFINISHED}/{name}", cache / name)
        return self._checkpoints(cache)

    def save_training(self, cache: Path, known: dict[str, int]) -> dict[str, int]:
        """Put those that changed, delete those that are gone; what is known now."""
        found = self._checkpoints(cache)
        for name in {*known, *found}:
            place = f"{self._name(cache)}/{UNFINISHED}/{name}"
            if name not in found:
                self.store.remove(place)
            elif known.get(name) != found[name]:
                self.store.put(cache / name, place)
        return found

    @staticmethod
    def _checkpoints(cache: Path) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in cache.glob(f".*{TRAINING}")}

    def put_artifact(self, artifact: Path, place: Path) -> None:
        """Put an exported model at its last place."""
        # of an earlier attempt: a folder is its manifest's files and no more
        self.store.remove(self._name(place))
        self.store.put_folder(artifact, self._name(place))

    def holds(self, place: Any) -> bool:
        """Whether a path lies in this depot; a model hub's name, or a folder that was given
        by hand, does not."""
        return isinstance(place, str) and place.startswith(self.root + os.sep)

    def _name(self, path: Path) -> str:
        return Path(path).relative_to(self.root).as_posix()


def with_depot(jobs: dict[str, Job], depot: Depot) -> dict[str, Job]:
    """The jobs, on a depot."""
    return {name: _with_depot(job, depot, trains=name in ("base", "supernet")) for name, job in jobs.items()}


def _with_depot(job: Job, depot: Depot, trains: bool) -> Job:
    def run(payload: dict[str, Any], context: Any) -> Generator[Event, None, None]:
        payload = depot.to_node(payload)
        keep = payload.pop("keep", None)
        prepared = {kind: path for kind, path in payload.get("prepared", {}).items() if kind != "reference"}
        used = [payload.get("corpus"), payload.get("base"), *prepared.values()]
        for place in filter(depot.holds, used):
            depot.need(Path(place))
        if depot.holds(payload.get("cache")):
            Path(payload["cache"]).mkdir(parents=True, exist_ok=True)
        folder = Path(payload["folder"]) if depot.holds(payload.get("folder")) else None
        with ExitStack() as stack:
            if depot.holds(payload.get("artifact")):
                stack.enter_context(depot.borrowed(Path(payload["artifact"])))
            if folder is not None:
                depot.restore(folder)
                if context.rank == 0:
                    stack.callback(shutil.rmtree, folder, ignore_errors=True)
            cache = Path(payload["cache"]) if trains and context.rank == 0 else None
            known = depot.training(cache) if cache else {}
            events = cast("Generator[Any, None, None]", job(payload, context))
            for event in stack.enter_context(closing(events)):
                known = depot.save_training(cache, known) if cache else known
                yield from _publish_event(event, depot, folder, keep, context.rank)

    return run


def _publish_event(event: Event, depot: Depot, folder: Path | None, keep: str | None,
                   rank: int) -> Iterator[Event]:
    """An event, after what it speaks of has reached the storage."""
    if rank == 0 and depot.holds(event.get("path")):
        depot.publish(Path(event["path"]))
    if rank == 0 and folder is not None and "rung" in event:
        if event.get("artifact"):
            if keep is not None:
                depot.put_artifact(Path(event["artifact"]), Path(keep))
            event = {**event, "artifact": keep}
        elif not event.get("final"):
            try:
                depot.save(folder)
            except StoreError as error:  # nothing is lost yet: the trial goes on here
                yield {"notice": f"a checkpoint was not stored: {error}"}
    yield depot.to_driver(event)


def _moved(value: Any, source: str, target: str) -> Any:
    if isinstance(value, dict):
        return {key: _moved(item, source, target) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, source, target) for item in value]
    if isinstance(value, str) and (value == source or value.startswith(source + os.sep)):
        return target + value[len(source):]
    return value


@contextmanager
def _lock(folder: Path) -> Iterator[int]:
    """A file to lock, among the workers of this node."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)
