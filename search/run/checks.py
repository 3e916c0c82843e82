"""What can be told to be wrong with a run before anything of it is started."""

from __future__ import annotations

import tempfile
from pathlib import Path

from search.run.validation import check_batches, check_methods, check_shared
from search.trackers.registry import check_trackers
from spaces.errors import UserError
from spaces.schema import Space


def check_request(space: Space, max_concurrent: int | None, cpus: int | None, resumed_and_warm: bool) -> None:
    """Raises `UserError` for arguments that are out of range or contradict each other, and for a sampler, a
    scheduler or a number of bases that cannot be had."""
    for name, value in (("max_concurrent", max_concurrent), ("cpus", cpus)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; legal: at least 1")
    if resumed_and_warm:
        raise UserError("resume and warm_start contradict each other: a run that goes on knows what it has "
                        "learned")
    check_batches(space)
    check_methods(space)
    check_shared(space)
    check_trackers(space.track)


def check_writable(storage: Path) -> None:
    """Raises `UserError` when nothing can be written below `storage`, which is made."""
    try:
        storage.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=storage):
            pass
    except OSError as error:
        raise UserError(f"cannot write to the storage {storage}: {error.strerror or error}") from error
