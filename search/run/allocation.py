"""Points to try first where bits of parts are searched: what an integer program makes of how much each part
of the base loses at each number of bits, under the bound on the size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spaces import points
from spaces.config import TrialConfig
from spaces.schema import Space
from spaces.shared import deciding

if TYPE_CHECKING:  # Ray is imported after `environment.apply`
    from search.run.prepare import SharedFolders

BITS, SIZE = "calibration.bits.", "size_bytes"
SLACK = 256
"""Bytes that numbers in an artifact's config.json may differ by."""
TAG = "allocated"


def searched_bits(space: Space) -> dict[str, list[int]]:
    """Part of the model -> the numbers of bits that are searched there."""
    return {path.removeprefix(BITS): [int(value) for value in dimension.values()]
            for path, dimension in space.dimensions.items() if path.startswith(BITS)}


def check_budgets(space: Space) -> None:
    """Raises `UserError` where `start_budgets` asks for points that cannot be told."""
    if not space.form.start_budgets:
        return
    key = ("start_budgets",)
    if not searched_bits(space):
        raise space.error(key, f"assigns bits, and no {BITS}PART is searched, such as {BITS}ffn")
    if own := deciding(space.dimensions, "base"):
        raise space.error(key, f"measures one base, and {own[0]} gives each of its values one of its own")


def example(space: Space) -> TrialConfig:
    """The trial that the parts are measured under: first values, where all searched bits act."""
    return space.config(points.complete(space.dimensions, _conditions(space)))


def _conditions(space: Space) -> points.Point:
    """What the bits are searched under, the first value of each condition."""
    found: points.Point = {}
    for path, dimension in space.dimensions.items():
        if path.startswith(BITS):
            for parent, values in dimension.when.items():
                found.setdefault(parent, values[0])
    return found


def measured_under(space: Space) -> points.Point:
    """The searched settings of the calibration that the parts are measured under, their bits left out: an
    assignment is the best there is with these alone."""
    point = points.complete(space.dimensions, conditions := _conditions(space))
    return conditions | {path: value for path, value in point.items()
                         if path.startswith("calibration.") and not path.startswith(BITS)}


def allocated(space: Space, shared: SharedFolders) -> list[points.Point]:
    """`allocated_points` of the base that all trials share; none where the space asks for none."""
    if not space.form.start_budgets:
        return []
    return allocated_points(space, shared.sensitivity(example(space), searched_bits(space)))


def allocated_points(space: Space, measured: Mapping[str, Any]) -> list[points.Point]:
    """Points with the bits that lose least at `start_budgets` sizes, smallest first, without repeats,
    calibrated as the parts were; what is not of the calibration is the sampler's.

    `measured`: what the job `sensitivity` says last. Raises `UserError`, one line, where no bits are small
    enough for the bound on size_bytes.
    """
    from trainable.quantization.post_training.sensitivity import Cost, assignments, smallest

    table = [Cost(**cost) for cost in measured["costs"]]
    fixed = int(measured["fixed_bytes"]) + SLACK
    bounds = [bound for bound in space.constraints if bound.metric == SIZE and bound.op in ("<", "<=")]
    most = None
    if bounds:
        tightest = min(bounds, key=lambda bound: bound.bound)
        most = int(tightest.bound) - fixed
        if most < (least := smallest(table)):
            raise space.error(("constraints",), f"no assignment of the searched bits meets {tightest}: the "
                              f"smallest takes {least + fixed:,} bytes, {fixed:,} of them beside what is "
                              "assigned")
    settings = measured_under(space)
    return [{**settings, **{BITS + part: int(bits) for part, bits in each.items()}}
            for each in assignments(table, space.form.start_budgets, most)]
