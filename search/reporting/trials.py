"""The trials of a run, one record each: settings, measurements, how it ended and why, what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from search.engine.cost import ENDED, Rate
from search.pareto.front import Front
from search.pareto.geometry import dominators
from search.pareto.objectives import CONFIG, curve, fault, feasible, measurements, searched, vector, violation
from search.pareto.stability import figure
from search.records.index import row_of
from search.records.run_folder import RunFolder
from spaces.objectives import Constraint
from spaces.schema import Space

Row = Mapping[str, Any]
State = Literal["complete", "stopped", "failed", "running", "lost"]
PLACES = {"held": ", and held its place when measured anew", "open": ", its place open when measured anew",
          "lost": ", but lost its place when measured anew"}


@dataclass(frozen=True)
class Trial:
    """One trial as its run recorded it.

    `params`: searched values by dotted path; `metrics`: what its last rung measured and, of a member of the
    front, what was measured anew; `rung` 0 = first; `steps` trained; `seconds` that it held its workers;
    `device_hours` of `device` (CPU or GPU); `money` where the space names a price. `why` says in one line
    what became of it: the reason it was stopped or failed, what beats it, the bound that it breaks, or that
    it is on the front. `artifact`: folder of the exported model, which members of the front have. `rungs`:
    steps and measurements, rung by rung.
    """

    number: int
    state: State
    params: dict[str, Any]
    metrics: dict[str, Any] = field(repr=False)  # some hundred of them
    rung: int | None
    steps: int | None
    seconds: float
    device: str
    device_hours: float
    money: float | None
    why: str
    on_front: bool
    tag: str | None = None
    artifact: Path | None = None
    seed: int | None = None
    rungs: tuple[tuple[int, dict[str, Any]], ...] = field(default=(), repr=False)

    def values(self) -> dict[str, Any]:
        """The record as one flat row: what `qdlm trials` prints and `to_pandas` has as columns."""
        told = {"trial": self.number, "state": self.state, "why": self.why, "rung": self.rung,
                "steps": self.steps, "tag": self.tag, "on_front": self.on_front}
        cost = {"seconds": self.seconds, "device_hours": self.device_hours,
                **({} if self.money is None else {"money": self.money})}
        params = {f"config.{path}": value for path, value in self.params.items()}
        return {**told, **cost, **self.metrics, **params, "seed": self.seed,
                "artifact": None if self.artifact is None else str(self.artifact)}


def trials(folder: RunFolder, space: Space, front: Front) -> list[Trial]:
    """All trials that a run has begun, by number. `front`: which of them count as being on it."""
    by_number: dict[int, list[Row]] = {}
    for event in folder.events():
        if event["event"] == "ask":  # until it has measured something this is all that is known of it
            point = {CONFIG + path: value for path, value in event["values"].items()}
            by_number.setdefault(event["trial"], [{"trial": event["trial"], **point}])
        elif event["event"] == "row":
            by_number.setdefault(event["trial"], []).append(row_of(event))
    members = {row["trial"]: row for row in front.member_rows()}
    live = folder.state == "running"
    rate = Rate.of(space.hardware, space.budget.price)
    return [_trial(number, by_number[number], folder.path, members, front, rate, live)
            for number in sorted(by_number)]


def _trial(number: int, rows: Sequence[Row], run: Path, members: Mapping[int, Row], front: Front, rate: Rate,
           live: bool) -> Trial:
    ended = [row for row in rows if row.get("state") in ENDED]
    row = members.get(number) or (ended or rows)[-1]
    state: State = row["state"] if ended else "running" if live else "lost"
    found = measurements(row)
    place = found.pop("artifact", None)
    artifact = run / place if place and number in members else None
    seconds = float(row.get("seconds") or 0.0)
    hours = seconds * rate.devices / 3600
    rungs = tuple((int(steps), metrics) for steps, metrics in curve(rows))
    return Trial(number, state, {path: value for path, value in searched(row).items() if value is not None},
                 found, row.get("rung"), row.get("fidelity"), seconds, rate.unit, hours,
                 None if rate.price is None else hours * rate.price,
                 why(state, row, front, number in members), number in members,
                 row.get("tag"), artifact, row.get("seed"), rungs)


def why(state: State, row: Row, front: Front, member: bool = False) -> str:
    """What became of a trial, in one line."""
    if member:
        place = PLACES.get(row.get("place") or "", "")
        return f"on the front{place}"
    if state in ("stopped", "failed"):
        return str(row.get("reason") or "no reason was recorded")
    if state == "running":
        return "it runs"
    if state == "lost":
        return "its session was cut off; it ran again, or will, under another number"
    return (fault(row, front.objectives, front.constraints) or beyond(row, front.constraints)
            or lost(row, front) or dominated(row, front))


def beyond(row: Row, constraints: Iterable[Constraint]) -> str | None:
    """The bounds that a complete trial breaks, and by how much of them; None where it keeps to all."""
    if feasible(row, list(constraints)):
        return None
    parts = [f"{bound} by {violation(row, bound):.1%}" for bound in constraints if violation(row, bound) > 0]
    return "breaks " + ", ".join(parts)


def lost(row: Row, front: Front) -> str | None:
    """Why bounds leave out a trial that keeps to them by its own figures; None where they do not."""
    found = [bound for one, bound in front.left_out if one["trial"] == row["trial"]]
    if not found:
        return None
    bound = found[0]
    if bound is None:
        return "beaten by another member when measured anew"
    return f"breaks {bound} when measured anew: {figure(row, bound.metric).mean:.6g}"


def dominated(row: Row, front: Front) -> str:
    """The members of the front that are at least as good everywhere and better somewhere."""
    better = dominators(front.vectors, vector(row, front.objectives))
    numbers = [str(front.members[index]["trial"]) for index in np.flatnonzero(better)]
    return f"dominated by {', '.join(numbers[:3])}" + (", ..." if len(numbers) > 3 else "")
