"""Starting from what an earlier run found: its results teach the sampler and the scheduler, its
front is tried first.

A result counts as what it is. One that ran to this space's full budget is complete; one that was stopped,
or ran to another budget, teaches what it measured and never counts as complete; rungs at the same steps
become rivals. A trial whose settings cannot be had here (another corpus, a value outside the space) is left
out, and said to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from search.engine.engine import Engine
from search.pareto.front import Front
from search.pareto.objectives import CONFIG, curve, fault, measurements, searched
from search.records.events import State
from spaces.config import TrialConfig
from spaces.errors import UserError
from spaces.schema import Space

Row = Mapping[str, Any]
TAG = "warm"
SHARE = 4
"""At most one in so many trials of the budget goes to running the earlier front again."""


@dataclass(frozen=True)
class PriorResult:
    """One earlier trial at a point of this space: how it counts here, what it measured last,
    and all its rungs."""

    values: dict[str, Any]
    state: State
    metrics: dict[str, Any]
    rows: tuple[Row, ...]


def prior_results(space: Space, other: Space,
                  rows: Iterable[Row]) -> tuple[list[PriorResult], Counter[str]]:
    """What the rows of a run of the space `other` teach a run of `space`; and why trials were
    left out, counted."""
    by_trial: dict[int, list[Row]] = {}
    for row in rows:
        by_trial.setdefault(row["trial"], []).append(row)
    found: list[PriorResult] = []
    left: Counter[str] = Counter()
    for own in by_trial.values():
        last = next((row for row in reversed(own) if row["state"] != "failed"), None)
        if last is None or own[-1]["state"] == "failed":
            left["it failed"] += 1
            continue
        values = {path: value for path, value in searched(last).items() if path in other.dimensions}
        try:
            point = space.point({path: values[path]
                                 for path in space.dimensions if values.get(path) is not None})
            same = _settings(space.config(point)) == _settings(other.config(other.point(
                {path: value for path, value in values.items() if value is not None})))
        except UserError:
            left["its point is outside this space"] += 1
            continue
        if not same:
            left["it was run under other fixed settings"] += 1
            continue
        metrics = measurements(last)
        whole = (last["state"] == "complete" and last.get("fidelity") == space.rungs[-1]
                 and fault(metrics, space.objectives, space.constraints) is None)
        found.append(PriorResult(point, "complete" if whole else "stopped", metrics, tuple(own)))
    return found, left


def apply_prior_results(engine: Engine, results: list[PriorResult]) -> int:
    """Tell a fresh engine; recorded, so that a resumed run and a replay know. Returns how many are
    tried again first."""
    for result in results:
        engine.learn(result.values, result.state, result.metrics, curve(result.rows))
    space = engine.space
    engine.scheduler.restore(rival_rows(space.rungs, engine.folder.events()))
    complete = [{"state": "complete", "trial": index, **result.metrics}
                for index, result in enumerate(results) if result.state == "complete"]
    front = Front.from_rows(complete, space.objectives, space.constraints)
    most = len(front) if space.budget.trials is None else max(1, space.budget.trials // SHARE)
    first = [results[row["trial"]] for row in list(front)[:most]]
    for result in first:
        engine.enqueue(result.values, tag=TAG, again=True)
    return len(first)


def rival_rows(rungs: Iterable[int], events: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Rows for the scheduler of the `learn` events among a run's, at the rungs of this space, so that a
    resumed run compares with what it compared with before. Their trials have negative numbers, which no trial
    of the run has."""
    places = {steps: rung for rung, steps in enumerate(rungs)}
    for index, event in enumerate(event for event in events if event["event"] == "learn"):
        point = {CONFIG + path: value for path, value in event["values"].items()}
        measured = event.get("rungs") or ()
        for step, (steps, metrics) in enumerate(measured, start=1):
            if steps in places:
                state = event["state"] if step == len(measured) else "rung"
                yield {"trial": -1 - index, "rung": places[steps], "state": state, **point, **metrics}


def _settings(config: TrialConfig) -> dict[str, Any]:
    """What two trials must share to be comparable: everything but the seed and the budget."""
    tree = config.model_dump(mode="json")
    tree.pop("seed")
    tree["adapt"]["optim"].pop("steps")
    return tree
