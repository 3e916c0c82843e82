"""What trials share: corpora, teachers and bases. What decides about them, and how many a space needs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spaces import points
from spaces.dimensions import Dimension
from spaces.paths import DECIDING
from spaces.rules import tree_at, trial_tree
from spaces.schema import Space

KINDS = ("corpus", "teacher", "base")
"""In the order in which they are made: teacher and base are of a corpus."""
PLURAL: Mapping[str, str] = MappingProxyType({"corpus": "corpora", "teacher": "teachers", "base": "bases"})
GIVEN = ("teacher.path", "base.path")
"""Settings that name what is made already."""


def deciding(dimensions: Mapping[str, Dimension], kind: str) -> list[str]:
    """The searched paths that decide about a thing; where there is none, all trials share one."""
    groups = tuple(f"{group}." for group in DECIDING[kind])
    return [path for path in dimensions if f"{path}.".startswith(groups)]


def combinations(space: Space, kind: str) -> int:
    """How many different ones the points of a space need made; 0 where it is given by its path."""
    dimensions, given = space.dimensions, f"{kind}.path"
    if given in GIVEN:
        if given not in dimensions and tree_at(trial_tree(space.form, {}), given) is not None:
            return 0
        if given in dimensions:
            own = dimensions[given]
            if not own.contains(None):
                return 0
            dimensions[given] = Dimension.model_validate({"choice": [None], "when": own.when})
    return points.distinct(dimensions, deciding(dimensions, kind))


def demand(space: Space) -> dict[str, int]:
    """Corpora, teachers and bases that have to be made at most: one each for a trial, if there are more."""
    most = space.budget.trials
    found = {kind: combinations(space, kind) for kind in KINDS}
    return {kind: count if most is None else min(count, most) for kind, count in found.items()}
