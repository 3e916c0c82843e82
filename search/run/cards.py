"""The model cards of a front, written anew when its members were measured again: the card then says what
`qdlm front` says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from search.pareto.front import Front
from search.pareto.stability import interval, source
from search.records.files import write_text
from spaces.errors import UserError
from trainable.storage.folders import MANIFEST

if TYPE_CHECKING:  # it needs torch, which is imported when there is a card to write
    from trainable.artifacts.model_card import Fresh


class Files(Protocol):
    """Where artifacts lie: `trainable.storage.object_store.Store`, or a folder."""

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Put a file in one step."""


class FolderFiles:
    """The files of a folder of this node."""

    def __init__(self, root: Path):
        self.root = root

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        """Replace a file in one step."""
        write_text(self.root / name, content.decode("utf-8"))


def write_cards(front: Front, run: str, files: Files, warn: Callable[[str], None]) -> None:
    """Write the card of each member that was measured again. `run`: its name; `files`: of the run folder. A
    member whose artifact cannot be read is warned of."""
    metrics = [item.metric for item in front.objectives]
    for row, place in zip(front, front.stability, strict=True):
        of = source(row, metrics)
        if of == "own" or not row.get("artifact"):
            continue
        from trainable.artifacts.model_card import Fresh

        try:
            _write(row, Fresh(_figures(row), of, place), f"{run}, trial {row['trial']}", files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError) as error:
            warn(f"the model card of trial {row['trial']} is as it was: {type(error).__name__}: {error}")


def _figures(row: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    found = {name: interval(row, name) for name in row}
    return {name: (one.mean, one.half) for name, one in found.items() if one}


def _write(row: Mapping[str, Any], fresh: Fresh, title: str, files: Files) -> None:
    """The manifest never lists a card that is not there: it loses the entry before, and gets it after."""
    from trainable.artifacts.artifact import MEASUREMENTS
    from trainable.artifacts.model_card import CARD, model_card
    from trainable.artifacts.packed import CONFIG

    place = row["artifact"]
    head, values, listed = (files.read(f"{place}/{name}") for name in (CONFIG, MEASUREMENTS, MANIFEST))
    if head is None or values is None or listed is None:
        return
    card = model_card(json.loads(head), json.loads(values), title, fresh).encode()
    listing = json.loads(listed)
    if CARD in listing and files.read(f"{place}/{CARD}") == card:
        return
    listing.pop(CARD, None)
    files.write(f"{place}/{MANIFEST}", json.dumps(listing, indent=1).encode())
    files.write(f"{place}/{CARD}", card)
    listing[CARD] = {"bytes": len(card), "sha256": hashlib.sha256(card).hexdigest()}
    files.write(f"{place}/{MANIFEST}", json.dumps(listing, indent=1).encode())
