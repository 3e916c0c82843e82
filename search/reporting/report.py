"""Everything that the report of a run shows, as one JSON-able mapping; `dashboards.page` draws it.

Bounded: of a large run an even selection of trials is kept (the front, and the reference arms,
always), and said so.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from search.engine.cost import PARTS, Ledger, Rate
from search.pareto.front import Front
from search.pareto.objectives import CONFIG, judged, measured, measurements, searched, violation
from search.pareto.process_bounds import mixed_bounds, processes
from search.pareto.reference_box import Box, choose_box
from search.pareto.stability import interval, source
from search.records.events import RecordedEvent
from search.records.index import rows_among
from search.records.run_folder import SPACE, RunFolder, by_trial_and_rung
from search.reporting.corpora import corpus_lines
from search.reporting.rows import ENDED, ended_rows, latest_rows
from search.reporting.sensitivity import sensitivity
from search.reporting.timeline import progress, working_seconds
from search.study.importance import importances
from spaces.schema import Space
from spaces.shell import program, quoted
from spaces.uris import origin

Row = Mapping[str, Any]
TRIALS_SHOWN = 2500
"""Trials of which the report holds the whole record."""
SAMPLED = 300
"""Trials whose generated text the report holds."""
TEXT = 400
"""Characters of a text that a trial left (a sample, a reason), at most."""
SAMPLES = "samples"


def collect(run: Path, shown: int = TRIALS_SHOWN) -> dict[str, Any]:
    """The content of a run's report. Raises `UserError` when the folder is no run."""
    folder = RunFolder.open(run)
    text, source = folder.space_text()
    space = Space.from_yaml(text, source)
    meta, events = folder.meta, folder.entries()
    rows = rows_among(events)  # of which those that are looked into are parsed
    latest, first_end = latest_rows(rows), ended_rows(rows)
    complete = [row for row in latest if row.get("state") == "complete"]
    front = Front.from_rows(complete, space.objectives, space.constraints)
    lit = [row["trial"] for row in front]
    kept = chosen(latest, set(lit), shown)
    rate = Rate.of(space.hardware, space.budget.price)
    box = (Box.of(meta["box"], space.objectives) if meta.get("box")
           else choose_box(complete, space.objectives, first=2))
    worked, seconds = working_seconds(events)
    knee = front.knee()
    return {
        "run": {"name": space.name, "description": space.description, "folder": folder.path.name,
                "state": folder.state, "path": origin(folder.path) or str(folder.path),
                "started": meta.get("started"), "ended": meta.get("ended"),
                "seconds": seconds,
                "made": datetime.now().astimezone().isoformat(timespec="seconds")},
        "objectives": [{"metric": item.metric, "direction": item.direction} for item in space.objectives],
        "constraints": [{"metric": item.metric, "op": item.op, "bound": item.bound}
                        for item in space.constraints],
        "dimensions": [{"path": path, "kind": item.kind, "values": list(item.values())
                        if item.kind == "choice" else None} for path, item in space.dimensions.items()],
        "counts": {"trials": len(latest), "shown": len(kept),
                   **{state: sum(row.get("state") == state for row in latest) for state in ENDED}},
        "trials": table(kept, space), "front": lit, "members": members(front),
        "knee": knee["trial"] if knee is not None else None,
        "box": box.corners() if box else None,
        "progress": thinned(progress(first_end, space.objectives, space.constraints, box, worked,
                                     rate.devices), shown),
        "rungs": {"steps": list(space.rungs), "curves": curves(rows, {row["trial"] for row in kept}, space)},
        "stops": stops(latest, space),
        "importance": importances(complete, space.dimensions, space.objectives),
        "cost": cost(events, first_end, meta, rate, folder.state == "running"),
        "samples": samples(folder.path, lit, [row["trial"] for row in kept]), "corpora": corpus_lines(events),
        "warnings": [line for line in [mixed_bounds(judged(space.objectives, space.constraints),
                                                    processes(complete))] if line],
        "sensitivity": sensitivity(events),
        "reproduce": {"seed": space.seed, "versions": meta.get("versions", ""), "space": text,
                      "commands": commands(folder.path, space,
                                           knee["trial"] if knee is not None else lit[0] if lit else None),
                      "devices": sorted({str(row["device"]) for row in latest if row.get("device")})},
    }


def members(front: Front) -> list[dict[str, Any]]:
    """Of each member: `place`, what the figures to go by come from (`seeds`, `again` or `own`), and of
    what was measured again, metric -> [mean, half-width of its 95 % interval]."""
    found = []
    for row, place in zip(front, front.stability, strict=True):
        anew = {item.metric: one for item in front.objectives if (one := interval(row, item.metric))}
        found.append({"place": place, "of": source(row, judged(front.objectives, ())),
                      "fresh": {metric: [_short(one.mean), _short(one.half)]
                                for metric, one in anew.items()}})
    return found


def commands(run: Path, space: Space, member: int | None) -> list[str]:
    """What to type to repeat a run, to see its front and text of a member: runs as it is printed in
    the shell from which the report was made."""
    place = origin(run) or str(run)
    lines = ["# the same search, from the space that the run recorded",
             f"{program()} run {quoted(f'{place}/{SPACE}')} --seed {space.seed}",
             "# its front, and text from a member", f"{program()} front {quoted(place)}"]
    if member is not None:
        lines.append(f"{program()} generate {quoted(f'{place}/artifacts/trial-{member:04d}')}")
    return lines


def chosen(latest: Sequence[Row], lit: set[int], shown: int) -> list[Row]:
    """At most about `shown` trials: the front and tagged arms, then an even selection, complete ones
    taking half first."""
    if len(latest) <= shown:
        return list(latest)
    always = [row for row in latest if row["trial"] in lit or row.get("tag")]
    rest = [row for row in latest if not (row["trial"] in lit or row.get("tag"))]
    done = _even([row for row in rest if row.get("state") == "complete"], max(0, shown - len(always)) // 2)
    other = _even([row for row in rest if row.get("state") != "complete"],
                  max(0, shown - len(always) - len(done)))
    return sorted([*always, *done, *other], key=lambda row: row["trial"])


def _even(rows: Sequence[Any], most: int) -> list[Any]:
    if len(rows) <= most:
        return list(rows)
    return [rows[index * len(rows) // most] for index in range(most)]


def thinned(curves: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Curves at no more than `most` of their points, the last one among them."""
    count = len(curves["trials"])
    places = sorted({*_even(range(count), most), *([count - 1] if count else [])})
    return {name: [values[place] for place in places] if isinstance(values, list) and values else values
            for name, values in curves.items()}


def table(rows: Sequence[Row], space: Space) -> dict[str, list[Any]]:
    """Columns of the trials: number, state, tag, reason, seconds, whether constraints hold, `config.*`,
    measurements."""
    config = [CONFIG + path for path in space.dimensions]
    numbers = dict.fromkeys(name for row in rows for name in measurements(row))
    columns: dict[str, list[Any]] = {
        "trial": [row["trial"] for row in rows],
        "state": [row.get("state") for row in rows], "tag": [row.get("tag") for row in rows],
        "rung": [row.get("rung") for row in rows], "seconds": [_short(row.get("seconds")) for row in rows],
        "fidelity": [row.get("fidelity") for row in rows], "device": [row.get("device") for row in rows],
        "seed": [row.get("seed") for row in rows], "reason": [_short(row.get("reason")) for row in rows],
        "feasible": [all(violation(row, bound) <= 0 for bound in space.constraints) for row in rows]}
    return columns | {name: [_short(row.get(name)) for row in rows] for name in [*config, *numbers]}


def _short(value: Any) -> Any:
    """A value as the page keeps it: six figures of a number, a bounded text; None for what
    JSON cannot hold."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value[:TEXT] if isinstance(value, str) else value


def curves(rows: Sequence[Row], kept: set[int], space: Space) -> list[dict[str, Any]]:
    """Per trial with more than one measured rung or stopped early: its fidelities and each
    objective there."""
    found: dict[int, list[Row]] = {}
    for row in by_trial_and_rung([row for row in rows if row["trial"] in kept]):
        if (row.get("rung") is not None
                and any(math.isfinite(measured(row, item.metric)) for item in space.objectives)):
            found.setdefault(row["trial"], []).append(row)
    return [{"trial": trial, "steps": [row.get("fidelity") or row["rung"] for row in steps],
             **{item.metric: [_short(_finite(measured(row, item.metric))) for row in steps]
                for item in space.objectives}}
            for trial, steps in found.items()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def stops(latest: Sequence[Row], space: Space) -> list[dict[str, Any]]:
    """How many trials ended how, and why, the most frequent first; of those that were stopped, the kind of
    reason (which rival, and by how much, stands in each trial's record)."""
    counts = Counter((str(row.get("state")), _kind(row)[:TEXT]) for row in latest)
    return [{"state": state, "reason": reason, "trials": count}
            for (state, reason), count in counts.most_common(40)]


def _kind(row: Row) -> str:
    reason = str(row.get("reason") or "")
    if row.get("state") != "stopped":
        return reason
    return re.sub(r"by trial \d+", "by another trial", reason.split(":")[0])


def cost(events: Sequence[RecordedEvent], ended: Sequence[Row], meta: Mapping[str, Any], rate: Rate,
         running: bool) -> dict[str, Any]:
    """Where the held time went: `unit` of a device, `money` if it has a price, lines {what, count,
    seconds, device_hours}.

    `seconds` are those of a worker group (what one trial holds).
    """
    cost_parts = Ledger.from_events(events, time.time() if running else None).breakdown(rate)
    states = Counter({"complete": "useful"}.get(str(row.get("state")), str(row.get("state")))
                     for row in ended)
    return {"unit": rate.unit, "groups": meta.get("groups"), "money": cost_parts["money"],
            "lines": [{"what": what, "count": states.get(part), "seconds": cost_parts[part] / rate.devices,
                       "device_hours": cost_parts[part] / 3600}
                      for part, what in PARTS.items() if cost_parts[part]]}


def samples(run: Path, lit: Sequence[int], kept: Sequence[int]) -> dict[str, Any]:
    """Generated text by trial, as the trials left it in RUN/samples: of the front first, then of
    others, bounded."""
    found: dict[str, Any] = {}
    for trial in dict.fromkeys([*lit, *kept]):
        path = run / SAMPLES / f"trial-{trial:04d}.json"
        if len(found) >= SAMPLED or not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found[str(trial)] = [{"task": str(item.get("task") or ""),
                                  "target": str(item.get("target") or "")[:TEXT],
                                  "text": str(item["text"])[:TEXT], "success": item.get("success")}
                                 for item in content[:48]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            found[str(trial)] = [{"task": "", "target": "", "text": f"({path.name} is damaged)",
                                  "success": None}]
    return found


def settings(row: Row) -> dict[str, Any]:
    """The searched values of a row that were active."""
    return {path: value for path, value in searched(row).items() if value is not None}
