"""What trials share, made before the first of them starts: corpora, teachers and bases, each distinct one once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.distributed.client import PoolClient
from search.engine.engine import Engine
from search.records.events import PrepareEvent
from spaces import points
from spaces.config import TrialConfig
from spaces.schema import Space
from trainable.messages import JobEvent, Payload, SharedPaths

Dumped = dict[str, Any]
Task = tuple[str, Payload]
_CORPUS_FACTS = ("corpus", "language", "vocabulary", "sentences", "dropped", "empty", "mean_words", "unk_rate")
"""What a tokenized corpus tells of itself, for whoever watches."""


def key(config: Dumped, *groups: str) -> str:
    """What decides the content of a shared thing: the named groups of settings."""
    return json.dumps({group: config[group] for group in groups}, sort_keys=True)


def corpus_key(config: Dumped) -> str:
    """Trials with equal keys share a corpus."""
    return key(config, "corpus")


def teacher_key(config: Dumped) -> str:
    """Trials with equal keys share a teacher."""
    return key(config, "corpus", "teacher") + str(config["base"]["seed"])


def base_key(config: Dumped) -> str:
    """Trials with equal keys share a base."""
    return key(config, "corpus", "model", "diffusion", "base", "runtime")


@dataclass
class SharedFolders:
    """Folders by the keys above."""

    corpora: dict[str, str] = field(default_factory=dict)
    teachers: dict[str, str] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)

    def of(self, config: TrialConfig) -> SharedPaths:
        """What one trial uses."""
        dumped = config.model_dump(mode="json")
        return {"corpus": self.corpora[corpus_key(dumped)], "teacher": self.teachers[teacher_key(dumped)],
                "base": self.bases[base_key(dumped)]}


def prepare(space: Space, client: PoolClient, cache: Path, engine: Engine) -> SharedFolders:
    """Corpora first, then teachers and bases side by side on the free groups. What the cache holds already is quick."""
    dimensions = space.dimensions
    decisive = [path for path in dimensions if path in space.base_dimensions() or path.startswith("runtime.")]
    parts = points.reachable(dimensions, decisive)
    configs = [space.config(points.complete(dimensions, part)).model_dump(mode="json") for part in parts]
    shared = SharedFolders()
    corpora: dict[str, Task] = {corpus_key(config): ("corpus", {"config": config, "cache": str(cache)}) for config in configs}
    shared.corpora = _make(client, engine, corpora)

    def with_corpus(kind: str, key_of: Callable[[Dumped], str]) -> dict[str, Task]:
        return {key_of(config): (kind, {"config": config, "cache": str(cache),
                                        "corpus": shared.corpora[corpus_key(config)]}) for config in configs}

    teachers, bases = with_corpus("teacher", teacher_key), with_corpus("base", base_key)
    both = _make(client, engine, {("teacher", name): task for name, task in teachers.items()}
                 | {("base", name): task for name, task in bases.items()})
    shared.teachers = {name: both["teacher", name] for name in teachers}
    shared.bases = {name: both["base", name] for name in bases}
    return shared


def _make(client: PoolClient, engine: Engine, tasks: dict[Any, Task]) -> dict[Any, str]:
    """Run prepare jobs, telling the observer how far each is; the folder that each made, by its key."""
    kinds = [kind for kind, _ in tasks.values()]
    labels = [kind if kinds.count(kind) == 1 else f"{kind} {kinds[:i + 1].count(kind)} of {kinds.count(kind)}"
              for i, kind in enumerate(kinds)]
    begun: dict[int, float] = {}

    def on_event(i: int, event: JobEvent) -> None:
        if "progress" not in event:
            return
        now = time.monotonic()
        seconds = now - begun.setdefault(i, now)
        progress = float(event["progress"])
        if "path" in event:
            engine.add_shared_seconds(seconds)
            made: PrepareEvent = {**event, "event": "prepare", "stage": labels[i], "seconds": seconds}
            engine.folder.event(made)
        engine.emit("prepare", stage=labels[i], progress=progress, detail=event.get("detail"),
                    **{name: event[name] for name in _CORPUS_FACTS if name in event})
        for message in event.get("warnings", ()):
            engine.folder.event({"event": "warning", "message": message})
            engine.emit("warning", message=message)

    last = client.map(list(tasks.values()), on_event)
    return {name: event["path"] for name, event in zip(tasks, last, strict=True)}
