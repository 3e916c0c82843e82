"""A training run's state on disk: replaced whole, never half-written, and dropped when it is no longer
wanted. Knows no Ray."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainable.storage.folders import ABANDONED
from trainable.training.loop import TrainingRun

EVERY = 60.0
"""Seconds of training that a kill may cost at most, unless saving is slow."""
SHARE = 0.05
"""Share of the time that saving may take: where it takes seconds, it is done more rarely."""


class Checkpoint:
    """The one checkpoint of a run, at `path`. Under DDP rank 0 alone reads and writes it: its storage need
    not be shared.

    `notes`: what was kept beside the run's state when it was restored, on every rank."""

    def __init__(self, path: Path, run: TrainingRun):
        self.path, self.run = path, run
        self.notes: dict[str, Any] = {}
        self._damaged = path.with_name(f"{path.name}.damaged")
        self._aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
        self._saved, self._took = time.monotonic(), 0.0

    def restore(self) -> bool:
        """Put the run, on every rank, where the checkpoint left it; False where there is none, or one
        that cannot be read or is of another run: that is moved aside (`NAME.damaged`), for training makes
        it again."""
        run = self.run
        box = [self._read() if run.rank == 0 else None]
        if run.world_size > 1:
            dist.broadcast_object_list(box, src=0)
        if box[0] is None:
            return False
        try:
            notes = json.loads(box[0].get("notes", "{}"))
            if not isinstance(notes, dict):
                raise ValueError("notes are not an object")
            run.load_state(box[0])
        except (ValueError, TypeError, RecursionError):  # on every rank alike
            self._set_aside()
            return False
        self.notes = notes
        return True

    def save(self, **notes: Any) -> None:
        """Keep the run's state, and JSON-able notes beside it. Ranks other than 0 have nothing to do."""
        if self.run.rank:
            return
        begun = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._aside.open("wb") as file:
                torch.save({**self.run.state(), "notes": json.dumps(notes)}, file)
                file.flush()
                os.fsync(file.fileno())
            self._aside.replace(self.path)
        except BaseException as error:
            self._aside.unlink(missing_ok=True)
            if isinstance(error.__context__, OSError):  # torch closes its archive, which fails in turn
                raise error.__context__ from None
            raise
        self._saved = time.monotonic()
        self._took = self._saved - begun

    def save_when_due(self) -> None:
        """`save`, when the last one is `EVERY` seconds back, or longer where saving itself takes long."""
        if time.monotonic() - self._saved >= max(EVERY, self._took / SHARE):
            self.save()

    def drop(self) -> None:
        """Remove it, and what killed processes left half-written."""
        killed = [path for path in self.path.parent.glob(f"{self.path.name}.*.partial")
                  if time.time() - path.stat().st_mtime > ABANDONED]
        for path in (self.path, self._aside, self._damaged, *killed):
            path.unlink(missing_ok=True)

    def _read(self) -> dict | None:
        if not self.path.is_file():
            return None
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - torn or rotten bytes raise whatever they meet in zip and unpickler
            found = None
        if not isinstance(found, dict):
            self._set_aside()
            return None
        return found

    def _set_aside(self) -> None:
        if self.run.rank == 0:
            self.path.replace(self._damaged)
