"""What trials share: corpora, teachers and bases. Each distinct one is made once: before the first trial
where all trials need it, and when a trial first needs it where searched settings decide about it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from search.distributed.client import PoolClient
from search.distributed.shared import key
from search.engine.engine import Engine, RunningTrial
from search.records.events import PrepareEvent
from search.run.ahead import NOTHING, Ahead
from search.run.calibration_rules import most_texts
from search.run.pace import Pace, spoken
from spaces.box import OF_BASE
from spaces.config import TrialConfig
from spaces.errors import RunError, UserError
from spaces.paths import DECIDING, settings_in
from spaces.schema import Space
from spaces.shared import KINDS, deciding
from trainable.messages import (
    JobEvent,
    PreparePayload,
    SensitivityPayload,
    SharedPaths,
    SharedRequest,
    SharedWord,
)
from trainable.stages.keys import base_settings, supernet_settings

Dumped = dict[str, Any]
Task = tuple[str, PreparePayload | SensitivityPayload]
_CORPUS_FACTS = ("corpus", "language", "vocabulary", "sentences", "dropped", "empty", "mean_words",
                 "unk_rate")
"""What a tokenized corpus tells of itself, for whoever watches."""


def settings(config: TrialConfig) -> dict[str, str]:
    """For each kind the settings that decide, beside the corpus, about its content."""
    dumped = config.model_dump(mode="json")
    try:
        base = base_settings(config)
    except UserError:  # the job that is to make it says so, and its trial fails
        base = {group: dumped[group] for group in DECIDING["base"] if group != "corpus"}
    found = {"corpus": dumped["corpus"], "teacher": [dumped["teacher"], config.base.seed], "base": base}
    if config.adapt.mode == "supernet":
        found["supernet"] = [base, supernet_settings(config)]
    return {kind: json.dumps(value, sort_keys=True) for kind, value in found.items()}


class SharedFolders:
    """Where what a run's trials share lies, as far as it is made. Makes more, on workers of `client`."""

    def __init__(self, space: Space, client: PoolClient, cache: Path, engine: Engine):
        self.space, self.client, self.cache, self.engine = space, client, cache, engine
        self.paths: dict[str, str] = {}
        self.references: dict[str, str] = {}  # of bases, by folder
        self.pace, self._warned = Pace(), False
        self._unready: dict[str, float] = {}
        self._ahead: float | None = None
        """Seconds of the corpus that was made before there were workers, until they are recorded."""

    def made(self, config: TrialConfig) -> dict[str, str]:
        """The folders of what one trial uses, by kind, of those that are made."""
        wanted, found = settings(config), dict[str, str]()
        for kind in wanted:
            name = self._name(kind, wanted, found)
            if name in self.paths:
                found[kind] = self.paths[name]
        if (reference := self.references.get(found.get("base", ""))) is not None:
            found["reference"] = reference
        return found

    def of(self, config: TrialConfig) -> SharedPaths:
        """What one trial uses. Raises KeyError where it is not made."""
        made = self.made(config)
        found: SharedPaths = {"corpus": made["corpus"], "teacher": made["teacher"], "base": made["base"]}
        if config.adapt.mode == "supernet":
            found["supernet"] = made["supernet"]
        if "reference" in made:
            found["reference"] = made["reference"]
        return found

    def request(self, config: TrialConfig) -> tuple[dict[str, str], SharedRequest]:
        """What a trial's payload says of it (see `search.distributed.shared.prepared`): folders that
        are made, and what decides about the others."""
        return self.made(config), {"cache": str(self.cache), "settings": settings(config)}

    def base_figures(self, config: TrialConfig) -> dict[str, float]:
        """What the base of a trial has of the metrics that it can have, where it was timed."""
        known = json.loads(self.made(config).get("reference", "{}"))
        return {metric: known[metric] for metric in OF_BASE if metric in known}

    def note(self, trial: RunningTrial, event: SharedWord) -> None:
        """A trial tells of what it makes."""
        label = f"{event['kind']} for trial {trial.number}"
        if "path" in event:
            wanted = settings(trial.config)
            self.paths[self._name(event["kind"], wanted, self.made(trial.config))] = event["path"]
            self._keep(event)
        if "seconds" in event:
            self._record(label, event, event["seconds"])
        if "failed" not in event:
            self._tell(label, event, trial=trial.number)

    def make_common(self, ahead: Ahead = NOTHING) -> None:
        """Make what all trials share. What is being made `ahead` is waited for."""
        if ahead.busy:
            source = self.space.example.corpus.source.name
            self._tell("corpus", {"progress": 0.0, "detail": f"tokenizing {source}"})
        ahead.wait(self._check_budget)
        self._ahead = ahead.seconds
        # the last says for whom: the corpus job refuses a trial that asks more of it than it has
        configs = [self.space.example, most_texts(self.space)]
        try:
            self.make(configs, [kind for kind in KINDS if not deciding(self.space.dimensions, kind)],
                      budgeted=True)
        except UserError as error:
            raise self._located(error) from None

    def _located(self, error: UserError) -> UserError:
        """The same with its place in the space's file, where it begins with a setting that stands there."""
        path, _, message = str(error).partition(": ")
        if path in self.space.dimensions:
            return self.space.error(("search", path), message)
        if path in dict(settings_in(self.space.form.trial)):
            return self.space.error(("trial", *path.split(".")), message)
        return error

    def make(self, configs: Iterable[TrialConfig], kinds: Sequence[str] = KINDS,
             budgeted: bool = False) -> None:
        """Make what is missing: corpora first, then teachers and bases side by side on the free groups. What
        the cache holds already is quick. Raises what the first job that fails raises; if `budgeted`,
        `RunError` when the budget is used up before all is there."""
        configs = list(configs)
        for stage in (KINDS[:1], KINDS[1:]):
            tasks: dict[str, Task] = {}
            for kind in [kind for kind in stage if kind in kinds]:
                for config in configs:
                    made = self.made(config)
                    if kind not in made:
                        job: PreparePayload = {"config": config.model_dump(mode="json"),
                                               "cache": str(self.cache)}
                        if kind != "corpus":
                            job["corpus"] = made["corpus"]
                        if kind == "base":  # by the order of sums, the number of threads can be told
                            job["borrow"] = budgeted and not self.space.deterministic
                        tasks[self._name(kind, settings(config), made)] = kind, job
            self._run(tasks, budgeted)

    @staticmethod
    def _name(kind: str, wanted: dict[str, str], made: dict[str, str]) -> str:
        return key(kind, wanted[kind], "" if kind == "corpus" else made.get("corpus", ""))

    def sensitivity(self, config: TrialConfig, choices: dict[str, list[int]]) -> Mapping[str, Any]:
        """What each part of the base loses at each of its numbers of bits, and stores. Base and corpus are
        made."""
        made = self.made(config)  # no teacher is needed
        job: SensitivityPayload = {"config": config.model_dump(mode="json"), "cache": str(self.cache),
                                   "corpus": made["corpus"], "base": made["base"], "choices": choices}
        found, = self._run({"sensitivity": ("sensitivity", job)}, budgeted=True)
        return found

    def _run(self, tasks: Mapping[str, Task], budgeted: bool) -> list[Any]:
        """Run prepare jobs, telling the observer how far each is; the last event of each."""
        kinds = [kind for kind, _ in tasks.values()]
        many = Counter(kinds)
        labels = [f"{kind} {kinds[:i + 1].count(kind)} of {many[kind]}" if many[kind] > 1 else kind
                  for i, kind in enumerate(kinds)]
        begun: dict[int, float] = {}

        def on_event(i: int, event: JobEvent) -> None:
            now = time.monotonic()
            seconds = now - begun.setdefault(i, now)
            if "path" in event:
                self._record(labels[i], event, seconds)
            self._tell(labels[i], event)

        last = self.client.map(list(tasks.values()), on_event,
                               watch=self._check_budget if budgeted and tasks else None)
        self.paths |= {name: event["path"] for name, event in zip(tasks, last, strict=True)}
        for event in last:
            self._keep(event)
        return last

    def _keep(self, event: Mapping[str, Any]) -> None:
        """What a base takes, for the trials that start from it."""
        if "reference" in event:
            self.references[event["path"]] = event["reference"]

    def _check_budget(self) -> None:
        """Raises `RunError` when the budget is used up and something is still to be made."""
        if over := self.engine.spent:
            far = ", ".join(f"{label} {progress:.0%}" for label, progress in self._unready.items())
            raise RunError(f"the {over} budget was used up before the first trial, while what trials share "
                           f"was made ({far or 'nothing'} ready): give more, such as with --budget TIME; "
                           "what is made is kept")

    def _record(self, label: str, event: Mapping[str, Any], seconds: float) -> None:
        self.engine.add_shared_seconds(seconds)
        # facts stand beside its keys
        made = {**event, "event": "prepare", "stage": label, "seconds": seconds}
        if label == "corpus" and self._ahead is not None:
            made["ahead_seconds"], self._ahead = self._ahead, None
        self.engine.folder.event(cast(PrepareEvent, made))

    def _tell(self, label: str, event: Mapping[str, Any], **more: Any) -> None:
        progress = float(event.get("progress", 0.0))
        facts = {name: event[name] for name in _CORPUS_FACTS if name in event}
        left = self.pace.left(label, progress)
        self._unready[label] = progress
        if progress >= 1:
            del self._unready[label]
        self.engine.emit("prepare", stage=label, progress=progress, detail=event.get("detail"), left=left,
                         **facts, **more)
        if left is not None and left > self.engine.seconds_left and not self._warned:
            self._warned = True
            self._warn(f"{label} takes about {spoken(left)} more, and the budget ends in "
                       f"{spoken(self.engine.seconds_left)}: give more time, or train it for fewer steps")
        for message in event.get("warnings", ()):
            self._warn(message)

    def _warn(self, message: str) -> None:
        self.engine.folder.event({"event": "warning", "message": message})
        self.engine.emit("warning", message=message)
