"""Opening the Optuna study of a run: in memory, or in a journal file that a killed writer may have
left in disorder."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from search.records.files import DISK
from search.records.journal import mend_tail
from spaces.errors import UserError
from spaces.objectives import Objective

GRACE = 10
"""Seconds for which another process (a dashboard) may hold the journal's lock; writing takes it milliseconds.
The search waits that long, and no longer."""
STALE = 2.0
"""Seconds after which an unchanged lock beside the journal is taken for one that a killed process left."""


def open_study(name: str, objectives: Sequence[Objective], path: Path | None) -> optuna.Study:
    """The study, new or as kept at `path`. Raises `UserError` when the file holds another study
    or is no journal."""
    if path is not None:
        _tidy(path)
    with _quiet():
        try:
            storage = InMemoryStorage() if path is None else _journal(str(path.resolve()))
            study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True,
                                        directions=[objective.direction for objective in objectives])
        except OSError as error:
            if error.errno in DISK:
                raise
            raise UserError(f"{path}: cannot be opened: {error.strerror or error}") from error
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError,
                RecursionError) as error:
            raise UserError(f"{path}: not an Optuna journal that can be opened: {error}") from error
        wanted = [(objective.metric, objective.direction) for objective in objectives]
        if study.metric_names is None:
            study.set_metric_names([metric for metric, _ in wanted])
        found = [(metric, direction.name.lower())
                 for metric, direction in zip(study.metric_names or (), study.directions, strict=True)]
    if found != wanted:
        raise UserError(f"{path}: holds a study of other objectives: {_describe(found)}; "
                        f"this space has {_describe(wanted)}")
    return study


class _Lock(JournalFileSymlinkLock):
    """Optuna's, which tells an error of the disk as if the lock had been another's."""

    def release(self) -> None:
        """Let go. Raises OSError where the disk does not."""
        try:
            super().release()
        except RuntimeError as error:
            if isinstance(error.__context__, OSError) and error.__context__.errno in DISK:
                raise error.__context__ from None
            raise


def _journal(path: str) -> JournalStorage:
    """The journal at an absolute path, because Optuna's lock is a symbolic link to it."""
    return JournalStorage(JournalFileBackend(path, _Lock(path, grace_period=GRACE)))


def _tidy(path: Path) -> None:
    """Undo what a killed writer left: a torn last line would spoil the next one, a lock would hold
    up every write."""
    mend_tail(path)
    lock = path.with_name(path.name + ".lock")
    if not os.path.lexists(lock):
        return
    before = os.lstat(lock).st_mtime_ns
    time.sleep(STALE)
    if os.path.lexists(lock) and os.lstat(lock).st_mtime_ns == before:
        lock.unlink()


def _describe(objectives: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{direction} {metric}" for metric, direction in objectives)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's notice of a new study and its warning that metric names are experimental."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        logger.setLevel(level)
