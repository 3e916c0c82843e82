"""`Space`: a checked search space. A file in, `TrialConfig`s out; every mistake is one line,
before anything runs.

Example:
    >>> from spaces.schema import load
    >>> space = load("quickstart", {"budget.trials": 4})
    >>> point = next(space.enumerate())
    >>> config = space.config(point)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spaces import loading, overrides, points, rules, yaml_text
from spaces.box import Corners
from spaces.complaints import Complaints, meaning
from spaces.config import HardwareConfig, TrialConfig
from spaces.dimensions import Dimension
from spaces.errors import UserError
from spaces.form import BudgetConfig, FinishConfig, SamplerConfig, SchedulerConfig, SpaceForm
from spaces.objectives import Constraint, Objective
from spaces.values import did_you_mean, show

_MAY_CHANGE_ON_RESUME = ("name", "description", "budget", "track")


@dataclass(frozen=True)
class Space:
    """What is fixed, what is searched, what it is judged by and when it ends."""

    form: SpaceForm
    complaints: Complaints = field(default_factory=Complaints, compare=False, repr=False)

    @classmethod
    def from_dict(cls, data: Any, complaints: Complaints | None = None) -> Space:
        """A space from the keys of a space file. Raises `UserError` naming source, line, key
        and what is legal."""
        complaints = complaints or Complaints()
        if not isinstance(data, dict):
            what = "is empty" if data is None else f"holds {show(data)}"
            raise complaints.error((), f"{what}; a space is a mapping of {', '.join(SpaceForm.model_fields)}")
        data = {"name": _name(complaints.source), **data}
        try:
            form = SpaceForm.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            raise complaints.invalid(error, SpaceForm) from None
        rules.check(form, complaints)
        return cls(form, complaints)

    @classmethod
    def from_yaml(cls, text: str, source: str = "space") -> Space:
        """A space from YAML text; `source` names it in messages."""
        document = yaml_text.read(text, source)
        return cls.from_dict(document.data, Complaints(source, document.lines))

    def with_overrides(self, changes: Mapping[str, Any]) -> Space:
        """A copy with keys changed, as by `--set` (`spaces.overrides.parse` reads its texts);
        None takes a key away."""
        data, named = overrides.apply(self.form.model_dump(mode="json", by_alias=True, exclude_unset=True),
                                      changes)
        return Space.from_dict(data, Complaints(self.complaints.source,
                                                overrides=(*self.complaints.overrides, *named)))

    @property
    def source(self) -> str:
        """The file that the space came from, for messages."""
        return self.complaints.source

    @property
    def name(self) -> str:
        """Names the run folder."""
        return self.form.name

    @property
    def description(self) -> str:
        """One sentence."""
        return self.form.description

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """What is searched, by dotted `TrialConfig` path, each after those that its condition names."""
        return {path: self.form.search[path] for path in self._order}

    @cached_property
    def _order(self) -> list[str]:
        return points.order(self.form.search)

    @property
    def start(self) -> list[dict[str, Any]]:
        """Points to try first, each any part of the search."""
        return [{path: self.form.search[path].canonical(value) for path, value in point.items()}
                for point in self.form.start]

    @property
    def objectives(self) -> list[Objective]:
        """Metrics with directions, in file order."""
        return [Objective(metric, direction) for metric, direction in self.form.objectives.items()]

    @property
    def constraints(self) -> list[Constraint]:
        """Bounds on metrics."""
        return [Constraint.parse(text) for text in self.form.constraints]

    @cached_property
    def box(self) -> Corners:
        """Objective to [best, worst], for those whose corner of the hypervolume's box is given; what is a
        share of the base's own is there from when that is told."""
        return Corners(self.form.box)

    @property
    def budget(self) -> BudgetConfig:
        """When the search ends: `trials` and `time` in seconds, either may be None."""
        return self.form.budget

    @property
    def rungs(self) -> tuple[int, ...]:
        """Optimizer steps, cumulative, at which a trial is measured; the last is the full budget."""
        return self.form.rungs or (self.example.adapt.optim.steps,)

    @property
    def sampler(self) -> SamplerConfig:
        """`name` and `options` of what proposes trials."""
        return self.form.sampler

    @property
    def scheduler(self) -> SchedulerConfig:
        """`name` and `options` of what stops trials."""
        return self.form.scheduler

    @property
    def hardware(self) -> HardwareConfig:
        """What one trial holds while it runs."""
        return self.form.hardware

    @property
    def finish(self) -> FinishConfig:
        """What is done with the members of the front."""
        return self.form.finish

    @property
    def deterministic(self) -> int:
        """Trials that a proposal does not wait for; 0 = the order of results decides."""
        return self.form.deterministic

    @property
    def seed(self) -> int:
        """Of the sampler."""
        return self.form.seed

    @cached_property
    def example(self) -> TrialConfig:
        """The trial with the first value of everything that is searched."""
        return self._build(points.complete(self.form.search, {}))

    @property
    def track(self) -> tuple[str, ...]:
        """Trackers that are told of a run."""
        return self.form.track

    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """The trial at a point: fixed settings, `values` of the active dimensions, the steps
        of the last rung.

        Values of dimensions that are not active there are left out, so no parameter of one plug-in reaches
        another. Raises `UserError` for a value that is missing, unknown or outside its dimension.
        """
        return self._build(self.point(values))

    def point(self, values: Mapping[str, Any]) -> points.Point:
        """`values` checked, in plain types, without those of dimensions that are not active."""
        search = self.form.search
        for path in values:
            if path not in search:
                raise self.error(("search", path),
                                 f"is not searched{did_you_mean(path, search)}; legal: {', '.join(search)}")
        point: points.Point = {}
        for path in self._order:
            if not points.is_active(search[path], point):
                continue
            if path not in values:
                raise self.error(("search", path), f"has no value; legal: {search[path].describe()}")
            if not search[path].contains(values[path]):
                message = f"{show(values[path])} is not in it; legal: {search[path].describe()}"
                raise self.error(("search", path), message)
            point[path] = search[path].canonical(values[path])
        return point

    def _build(self, point: points.Point) -> TrialConfig:
        tree = rules.trial_tree(self.form, point)
        asked = (*(tree["evaluation"].get("metrics") or ()), *(item.metric for item in self.objectives),
                 *(item.metric for item in self.constraints))
        tree["evaluation"] = {**tree["evaluation"], "metrics": sorted(set(asked))}
        try:
            return TrialConfig.model_validate_json(json.dumps(tree), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            values = ", ".join(f"{path}={show(value)}" for path, value in point.items())
            raise self.error(("trial", *first["loc"]), f"{meaning(first)} (at {values})") from None

    def error(self, path: tuple[str | int, ...], message: str) -> UserError:
        """The error to raise about the key at `path`; names the file and the line."""
        return self.complaints.error(path, message)

    def size(self) -> int | None:
        """Number of points, conditions counted; None when a continuous dimension makes it infinite."""
        return points.count(self.form.search)

    def enumerate(self) -> Iterator[points.Point]:
        """All points, the last dimension varying fastest. Raises `UserError` for an infinite space."""
        if self.size() is None:
            endless = [path for path, dimension in self.form.search.items() if not dimension.finite]
            raise self.error(("search",),
                             f"has infinitely many points; use choice or int for {', '.join(endless)}")
        return points.walk(self.form.search)

    def resolved(self) -> dict[str, Any]:
        """The keys of a space file with every default written out, so that a later default cannot
        change the run."""
        trial = self.example.model_dump(mode="json")
        for path in (*self.form.search, "adapt.optim.steps"):
            _remove(trial, path.split("."))
        form = self.form.model_dump(mode="json", by_alias=True)
        search = {path: dimension.form() for path, dimension in self.form.search.items()}
        return {**form, "trial": trial, "search": search, "rungs": list(self.rungs)}

    def to_yaml(self) -> str:
        """The resolved space as YAML; `Space.from_yaml` turns it back into a space that
        resolves to the same."""
        return yaml_text.write(self.resolved())

    def difference(self, other: Space) -> list[str]:
        """What keeps this space from continuing a run of `other`: one line per key, empty when nothing does.

        The budget, the trackers, the name and the description may differ.
        """
        here, there = (_flat(space.resolved()) for space in (self, other))
        keys = [key for key in {**here, **there} if key[0] not in _MAY_CHANGE_ON_RESUME]
        absent = "absent"
        return [
            f"{'.'.join(key)}: {show(here[key]) if key in here else absent} here, "
            f"{show(there[key]) if key in there else absent} in the run"
            for key in keys
            if here.get(key, absent) != there.get(key, absent)
        ]


def load(path_or_name: str | Path, changes: Mapping[str, Any] | None = None) -> Space:
    """Load a space file, or a shipped space by name or `spaces/NAME.yaml`, with `--set`
    changes applied first.

    Raises `UserError` naming file, line, key and what is legal. Plug-in parameters are checked by
    `search.run.validation`.
    """
    path, source = loading.locate(path_or_name)
    document = yaml_text.read(loading.text_of(path, source), source)
    data: Any = document.data
    named: tuple[tuple[tuple[str, ...], str], ...] = ()
    if changes and isinstance(data, dict):
        data, named = overrides.apply(data, changes)
    return Space.from_dict(data, Complaints(source, document.lines, named))


def _name(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(source).stem).lstrip("-_.") or "space"


def _remove(tree: dict[str, Any], parts: list[str]) -> None:
    """Take a path out of nested settings, with the mappings that it leaves empty."""
    head, *rest = parts
    if rest and isinstance(tree.get(head), dict):
        _remove(tree[head], rest)
    if head in tree and (not rest or tree[head] == {}):
        del tree[head]


def _flat(node: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Nested mappings as one; a dimension stays whole."""
    if not isinstance(node, dict) or not node or (path[:1] == ("search",) and len(path) == 2):
        return {path: node}
    return {key: value for name, child in node.items() for key, value in _flat(child, (*path, name)).items()}
