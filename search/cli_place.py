"""Arguments that name a run or an exported model: a folder, or a URI, of which a copy is fetched."""

from __future__ import annotations

import sys
from pathlib import Path

from spaces.uris import is_uri


def run_folder(place: str) -> Path:
    """The folder of a run, to be read."""
    if not is_uri(place):
        return Path(place)
    from search.syncing import fetched

    return fetched(place, say)


def artifact_folder(place: str) -> Path:
    """The folder of an exported model."""
    if not is_uri(place):
        return Path(place)
    from search.syncing import fetched_artifact

    return fetched_artifact(place, say)


def say(text: str) -> None:
    """One line on standard error."""
    print(f"qdlm: {text}", file=sys.stderr)
