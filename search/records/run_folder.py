"""RUN/: everything that a run leaves on disk, written so that a killed process loses nothing that
was acknowledged.

    space.yaml      the resolved space             events.jsonl   rows and events, in order; the truth
    run.json        state, box, versions           trials.parquet the rows as a table, rewritten now and then
    front.csv/.json the front                      study.journal  the Optuna study
    events.index    where what lies in events.jsonl (`index`)

One process writes (it holds `lock`), any number read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from search.pareto.front import Front
from search.pareto.reference_box import Box
from search.records.checking import checked, meta_problem
from search.records.events import OtherEvent, RecordedEvent
from search.records.files import RunLock, replacing, sync, unwritable, write_text
from search.records.index import INDEX, Index, read_entries, read_rows, row_of
from search.records.journal import append_line, dumps, mend_tail, parsed_lines, read_lines
from search.records.spans import CLOCK
from spaces.errors import UserError
from spaces.loading import text_of

SPACE, META, EVENTS, TRIALS, STUDY = ("space.yaml", "run.json", "events.jsonl", "trials.parquet",
                                      "study.journal")
FRONT_CSV, FRONT_JSON, FRONT_PNG, LOCK = "front.csv", "front.json", "front.png", "run.lock"
LEASE, LEASE_S = "lease.json", 90.0
"""Of a run whose storage is a URI: who writes it, and how long that is believed after the last
sign of life."""

STUDIED = ("run_started", "enqueue", "learn", "ask")
"""Events that follow a change of the study; each tells how long the study's journal was
(`journal`, bytes)."""
REWRITE_SHARE = 20
"""Times what a rewrite of trials.parquet took that passes until the next."""


class RunFolder:
    """One run on disk. `create` and `lock` make this process its writer; a folder that was only
    opened can be read."""

    def __init__(self, path: Path, parquet_every: float = 5.0, clock: Callable[[], float] = time.monotonic):
        """For an existing folder, use `open`. `parquet_every`: seconds at least between two rewrites
        by `append`; a rewrite that took long puts the next one off, so that a long run does not spend its
        time on rewriting."""
        self.path, self.parquet_every, self._clock = Path(path), parquet_every, clock
        self._lock = RunLock(self.path / LOCK)
        self._rows: list[dict[str, Any]] = []
        self._index = Index()
        self._taken = time.monotonic()
        self._stale, self._due = False, -float("inf")

    @classmethod
    def create(cls, storage: Path, name: str, space_yaml: str, meta: Mapping[str, Any] | None = None,
               **options: Any) -> RunFolder:
        """Make storage/NAME-YYYYMMDD-HHMMSS (with -2, -3, ... when taken), locked for writing.

        `meta` goes to run.json; its key `columns` (`search.pareto.table.column_types`) fixes the types of
        `config.*` columns, `judged` names the metrics that readers ask of every row. Raises `UserError` when
        the storage cannot be written; then nothing is left behind.
        """
        path = _fresh(Path(storage), name)
        folder = cls(path, **options)
        try:
            folder._lock.acquire()
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            write_text(path / META,
                       _pretty({"name": name, "state": "running", "started": started,
                                "space_sha256": _sha256(space_yaml.encode()), **(meta or {})}))
            (path / EVENTS).touch()
            write_text(path / SPACE, space_yaml)  # last: a folder without it is not a run
            # rows are on disk when `append` returns; so must be the file's own entry
            for made in (path, path.parent):
                sync(made)
        except OSError as error:
            folder._lock.release()
            shutil.rmtree(path, ignore_errors=True)
            raise UserError(f"cannot write to the storage {storage}: {error.strerror or error}") from error
        return folder

    @classmethod
    def open(cls, path: Path, **options: Any) -> RunFolder:
        """An existing run, for reading; call `lock` to go on with it. Raises `UserError` when it
        is no run folder."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path} is not a run folder: no such folder")
        for file in (SPACE, META, EVENTS):
            if not (path / file).is_file():
                raise UserError(f"{path} is not a run folder: no {file}")
        return cls(path, **options)

    def lock(self) -> RunFolder:
        """Become the only writer and cut off what a killed one left torn. Raises `UserError` when
        another one lives."""
        self._lock.acquire()
        try:
            if self.space_edited:
                raise UserError(f"{self.path / SPACE} was edited after the run began, and its records are of "
                                "the space as it was: put that back, or begin a new run with --warm-start")
        except BaseException:
            self._lock.release()
            raise
        self._taken = time.monotonic()
        torn = mend_tail(self.path / EVENTS)
        self._take_over()
        self._stale = True
        if torn:
            self.event({"event": "warning",
                        "detail": f"events.jsonl: dropped a torn last line of {torn} bytes"})
        return self

    def is_live(self) -> bool:
        """Whether some process holds the lock now; of a copy of what lies at a URI, whether its
        writer was alive lately."""
        try:
            lease = json.loads((self.path / LEASE).read_text())
            return time.time() - float(lease["time"]) < LEASE_S
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return self._lock.is_held()

    @property
    def is_writer(self) -> bool:
        """Whether this object may write the run: it has made or locked it, and not closed it."""
        return self._lock.owned

    @property
    def is_copy(self) -> bool:
        """Whether this is a copy of what lies at a URI, to be read."""
        return (self.path / LEASE).is_file()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row (keys: see `objectives`). It is on disk when this returns; the table
        follows, throttled."""
        self._check_writable()
        entry = {"event": "row", "time": time.time(), **row, CLOCK: self._since()}
        with self._writing():
            self._index.add(append_line(self.path / EVENTS, entry))
        self._rows.append(row_of(entry))
        self._stale = True
        if self._clock() >= self._due:
            self.write_parquet()

    def event(self, event: OtherEvent, sync: bool = True) -> None:
        """Add an event, such as {"event": "prepare", "stage": "corpus"}. On disk when this returns,
        unless not `sync`."""
        self._check_writable()
        assert event.get("event", "row") != "row", "rows go through append"
        more = {"journal": _size(self.path / STUDY)} if event["event"] in STUDIED else {}
        with self._writing():
            stamps = {"time": time.time(), CLOCK: self._since()}
            self._index.add(append_line(self.path / EVENTS, {**stamps, **event, **more}, sync))

    def events(self) -> Iterator[RecordedEvent]:
        """All entries in order, rows too (event = "row"). A torn last line is left out. Raises `UserError`
        naming the line that is no record."""
        for line, entry in enumerate(read_lines(self.path / EVENTS), start=1):
            yield checked(self.path / EVENTS, line, entry)

    def entries(self) -> list[RecordedEvent]:
        """`events`, for looking only: most are parsed when more than `search.records.index.KEYS` is asked
        of them, where the run left an index. `rows_among` tells their rows."""
        return read_entries(self.path / EVENTS, self.path / INDEX)

    def row_views(self) -> list[Mapping[str, Any]]:
        """`rows`, for looking only, as `entries`."""
        return read_rows(self.path / EVENTS, self.path / INDEX)

    def rows(self) -> list[dict[str, Any]]:
        """The rows in the order in which they were appended."""
        return [row_of(entry) for entry in self.events() if entry["event"] == "row"]

    @property
    def meta(self) -> dict[str, Any]:
        """run.json. Raises `UserError` when it is damaged."""
        try:
            meta = json.loads((self.path / META).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path / META}: not JSON: {str(error)[:200]}") from None
        if problem := meta_problem(meta):
            raise UserError(f"{self.path / META}: not what a run writes: {problem}; the file was edited or "
                            "damaged")
        return meta

    def space_text(self) -> tuple[str, str]:
        """What space.yaml says, and how messages call the file. Raises `UserError`."""
        path = self.path / SPACE
        return text_of(path, str(path)), str(path)

    @property
    def space_edited(self) -> bool:
        """Whether space.yaml is another than the run began with. Older runs do not tell."""
        known = self.meta.get("space_sha256")
        return known is not None and known != _sha256((self.path / SPACE).read_bytes())

    def update(self, **changes: Any) -> dict[str, Any]:
        """Set keys of run.json (state, box, ...) and return the whole; None takes a key away. Atomic."""
        self._check_writable()
        meta = {name: value for name, value in {**self.meta, **changes}.items() if value is not None}
        with self._writing():
            write_text(self.path / META, _pretty(meta))
        return meta

    @property
    def state(self) -> str:
        """running, finished, interrupted or failed; a run that says it is running and has no writer
        was interrupted."""
        state = self.meta.get("state") or "running"
        return "interrupted" if state == "running" and not self.is_live() else state

    def write_parquet(self) -> None:
        """Rewrite trials.parquet from the rows: one per trial and rung, typed columns, by way of
        a temporary file; and the index of the events."""
        import pyarrow.parquet  # slow to import, and reading needs neither

        from search.pareto.table import to_table

        self._check_writable()
        began = self._clock()
        meta = self.meta
        table = to_table(by_trial_and_rung(self._rows), meta.get("columns"))
        with self._writing(), replacing(self.path / TRIALS) as temporary:
            pyarrow.parquet.write_table(table, temporary)
        with self._writing():
            self._index.write(self.path / INDEX, self._rows, meta.get("judged") or meta.get("box") or ())
        ended = self._clock()
        self._stale, self._due = False, ended + max(self.parquet_every, REWRITE_SHARE * (ended - began))

    def write_front(self, front: Front) -> None:
        """Write front.csv (one row per member) and front.json (objectives, box, hypervolume, members)."""
        self._check_writable()
        meta = self.meta
        with self._writing(), replacing(self.path / FRONT_CSV) as temporary:
            front.to_csv(temporary, meta.get("columns"))
        box = Box.of(meta["box"], front.objectives) if meta.get("box") else None
        with self._writing():
            write_text(self.path / FRONT_JSON, _pretty(front.summary(box)))

    def close(self, state: str | None = None, reason: str | None = None) -> None:
        """Bring the table up to date, note `state` and why in run.json if given, and let go of the lock."""
        if not self._lock.owned:
            return
        try:
            if self._stale:
                self.write_parquet()
            if state is not None:
                ended = datetime.now().astimezone().isoformat(timespec="seconds")
                self.update(state=state, reason=reason, ended=ended)
        finally:
            self._lock.release()

    def discard(self) -> None:
        """The run is not to be: remove all that it has written."""
        self._check_writable()
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A disk that is full, or gone, ends the run in one line: what was acknowledged is there,
        and the rest runs again."""
        try:
            yield
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _take_over(self) -> None:
        """Read what earlier sessions left, and drop what the study heard of and the records did not: a
        proposal that was cut off half-way, say, was handed to nobody. So the study is what a replay of the
        records makes of it. A run that ended well is left as it is."""
        known: int | None = None
        finished, rows, index, path = False, [], Index(), self.path / EVENTS
        for number, (line, found) in enumerate(parsed_lines(path, path.read_bytes()), start=1):
            event = checked(path, number, found)
            index.add(line + b"\n", event)
            if "journal" in event:
                known = event["journal"]
            if event["event"] == "row":
                rows.append(row_of(event))
            finished = event["event"] == "run_ended" and event.get("state") == "finished"
        self._rows, self._index = rows, index
        if known is not None and not finished and _size(self.path / STUDY) > known:
            os.truncate(self.path / STUDY, known)

    def _since(self) -> float:
        """Seconds of this session."""
        return round(time.monotonic() - self._taken, 3)

    def _check_writable(self) -> None:
        assert self._lock.owned, f"{self.path} is written without its lock"


def by_trial_and_rung(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per trial and rung, sorted; a later row fills in and overrides what an earlier one
    of the pair says."""
    merged: dict[tuple[int, float], dict[str, Any]] = {}
    for row in rows:
        rung = row.get("rung")
        place = (row["trial"], float("inf") if rung is None else rung)
        merged[place] = merged.get(place, {}) | {name: value
                                                 for name, value in row.items() if value is not None}
    return [merged[place] for place in sorted(merged)]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _fresh(storage: Path, name: str) -> Path:
    stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-.') or 'run'}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        storage.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            path = storage / (stem if attempt == 1 else f"{stem}-{attempt}")
            with suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise UserError(f"cannot write to the storage {storage}: {error.strerror or error}") from error
    raise UserError(f"cannot write to the storage {storage}: {stem} is taken a thousand times over")


def _pretty(content: Mapping[str, Any]) -> str:
    return json.dumps(json.loads(dumps(content)), indent=2, ensure_ascii=False) + "\n"
