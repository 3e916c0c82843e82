"""`qdlm front` with bounds: which members are left, which one is chosen, and what is said where none is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spaces.errors import UserError
from spaces.values import did_you_mean

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.pareto.front import Front
    from search.pareto.objectives import Constraint
    from search.records.run_folder import RunFolder
    from spaces.schema import Space


def check_bounds(folder: RunFolder, within: Sequence[Constraint], label: str = "--within ") -> None:
    """Raises `UserError` for a bound on what is no metric and no column of the run; `label` begins it."""
    from trainable.registry import METRICS

    unknown = [bound for bound in within if bound.metric not in METRICS]
    known = {name for row in folder.rows() for name in row} if unknown else set()
    for bound in unknown:
        if bound.metric not in known:
            raise UserError(f"{label}{bound}: "
                            f"unknown metric {bound.metric!r}{did_you_mean(bound.metric, METRICS)}; legal: "
                            f"{', '.join(METRICS)}, or a column of the run's trials.parquet")


def chosen(found: Front, best: str, label: str = "--best ") -> Mapping[str, Any] | None:
    """The row that `--best` names; None where there is none. Raises `UserError`, which `label` begins, for
    what is no objective."""
    metrics = [objective.metric for objective in found.objectives]
    if best != "knee" and best not in metrics:
        hint = did_you_mean(best, metrics)
        raise UserError(f"{label}{best}: not an objective of the run{hint}; legal: knee, "
                        f"{', '.join(metrics)}")
    return found.knee() if best == "knee" else found.best(best)


def chosen_by(found: Front) -> str:
    """By which figures the one member was chosen."""
    from search.pareto.objectives import judged
    from search.pareto.stability import source

    return {
        "seeds": "chosen by the figures of models trained anew with other seeds",
        "again": "chosen by the figures that were measured anew from the exported files",
        "own": "chosen by the trial's own figures: it was not measured again, so they may be too good",
    }[source(found.members[0], judged(found.objectives, found.constraints))]


def left_out(found: Front) -> list[str]:
    """Whom the bounds left out though their own figures keep to them, and why, one line each."""
    from search.cli.format import figure
    from search.pareto.stability import figure as figure_of

    lines = []
    for row, bound in found.left_out:
        why = "it is beaten by another member"
        if bound is not None:
            anew = figure_of(row, bound.metric)
            why = f"its {bound.metric} is {figure(bound.metric, anew.mean)} ({anew.of})"
        lines.append(f"trial {row['trial']} is left out: measured anew, {why}")
    return lines


def nearest(folder: RunFolder, space: Space, found: Front) -> RenderableType:
    """What to tell when no complete trial keeps to all bounds: how near to each bound one came."""
    from rich.text import Text

    from search.cli.format import figure
    from search.pareto.objectives import finished, violation

    rows = found.trusted(finished(folder.rows(), space.objectives))
    lines = ["[yellow]No complete trial is within all of these bounds.[/]"]
    for bound in found.constraints:
        measured = [row for row in rows if not math.isnan(violation(row, bound))]
        asked = f"{bound.metric} {bound.op} {figure(bound.metric, bound.bound)}"
        if not measured:
            lines.append(f"{asked}: measured by no complete trial")
            continue
        row = min(measured, key=lambda row: violation(row, bound))
        kept = sum(violation(row, bound) <= 0 for row in measured)
        lines.append(f"{asked}: kept by {kept} of {len(measured)}; the best is trial {row['trial']} with "
                     f"{figure(bound.metric, row[bound.metric])}")
    return Text.from_markup("\n".join([*lines, *left_out(found)]))
