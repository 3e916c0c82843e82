"""Whether likelihood bounds stand beside each other that do not compare: those of different processes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from spaces.rules import tree_at, trial_tree
from spaces.schema import Space

BOUND, PROCESS = "nll_bound", "nll_bound_process"
"""The metric, and the column that names the process that a value is of."""


def judged_by_bound(metrics: Iterable[str]) -> bool:
    """Whether the bound, or a part of it, is among the metrics that decide."""
    return any(f"{name}_".startswith(f"{BOUND}_") for name in metrics)


def processes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The processes that the bounds of the rows are of, in alphabetical order."""
    return sorted({str(row[PROCESS]) for row in rows if row.get(PROCESS)})


def searched_processes(space: Space) -> list[str]:
    """The processes that the trials of a space can have."""
    searched = space.dimensions.get("diffusion.name")
    return sorted(set(map(str, searched.values())) if searched is not None
                  else {str(tree_at(trial_tree(space.form, {}), "diffusion.name"))})


def mixed_bounds(metrics: Collection[str], found: Sequence[str]) -> str | None:
    """What to say where `metrics` decide between models of the processes `found`; None where none mix."""
    if len(found) < 2 or not judged_by_bound(metrics):
        return None
    return (f"{BOUND} bounds the likelihood under {' and '.join(found)} by different sums, each loose in its "
            "own way: it compares models of one process, not these with each other")
