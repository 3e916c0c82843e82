"""A run's folder as it is made, what computes in it, and the disk under it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from search.pareto.objectives import judged
from search.pareto.table import column_types
from search.records.files import DISK, unwritable
from search.records.run_folder import RunFolder
from spaces.schema import Space

PACKAGES = ("ray", "optuna", "torch", "transformers", "peft")


def versions() -> str:
    """Versions of what computes, in one string."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)


@contextmanager
def disk_errors(storage: Path) -> Iterator[None]:
    """An error of the disk, whoever of all that write here met it (the study, the front's picture),
    in one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise unwritable(storage, error) from error


def created(storage: Path, space: Space) -> RunFolder:
    """A new run's folder, locked."""
    meta = {"columns": column_types(space.dimensions),
            "judged": list(dict.fromkeys(judged(space.objectives, space.constraints)))}
    return RunFolder.create(storage, space.name, space.to_yaml(), meta)
