"""What adapters for intervals of the noise level ask of the rest of a trial, at every combination that a
space reaches."""

from __future__ import annotations

from pydantic import ValidationError

from spaces import points
from spaces.complaints import meaning
from spaces.config import TrialConfig
from spaces.paths import settings_in
from spaces.rules import reached, trial_tree
from spaces.schema import Space
from trainable.registry import BACKBONES

_GROUPS = ("quantization", "calibration", "lora", "adapt", "model", "diffusion")
_DECISIVE = ("quantization.", "calibration.", "lora.", "adapt.mode", "model.")


def check_intervals(space: Space) -> None:
    """Where adapters differ between intervals, nothing has to merge them and layers are told the noise level.

    Raises `UserError`.
    """
    if "lora.intervals" not in [*space.dimensions, *(path for path, _ in settings_in(space.form.trial))]:
        return
    from trainable.adapters.intervals import tells_noise, untold

    inside = [path for path in space.dimensions
              if f"{path}.".startswith(_DECISIVE) and space.dimensions[path].finite]
    for point in points.reachable(space.dimensions, inside):
        tree = trial_tree(space.form, point)
        count, name = tree["lora"]["intervals"], tree["model"]["name"]
        problem = None
        try:
            TrialConfig.model_validate({group: tree[group] for group in _GROUPS})
        except ValidationError as error:
            problem = meaning(error.errors()[0])
        if count > 1 and tree["lora"]["rank"] and not tells_noise(BACKBONES.get(name)):
            problem = untold(name, count)
        if problem:
            raise reached(inside, point, problem, ("trial", "lora", "intervals"), space.complaints)
