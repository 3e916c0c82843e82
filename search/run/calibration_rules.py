"""What post-training quantization asks of the rest of a trial, at every combination that a space reaches."""

from __future__ import annotations

from pydantic import ValidationError

from spaces import points
from spaces.complaints import meaning
from spaces.config import CalibrationConfig, TrialConfig
from spaces.errors import UserError
from spaces.paths import settings_in
from spaces.rules import reached, trial_tree
from spaces.schema import Space

_DECISIVE = (
    "calibration.method",
    "calibration.method.name",
    "calibration.transforms",
    "calibration.sites",
    "calibration.activation_bits",
    "adapt.train",
    "lora.rank",
)


def check_calibration(space: Space) -> None:
    """It meets no other quantizer, its transforms can stand where they do, and what trains nothing has no
    adapter.

    Raises `UserError`.
    """
    given = [*space.dimensions, *(path for path, _ in settings_in(space.form.trial))]
    if not any(path == "adapt.train" or path.startswith("calibration") for path in given):
        return
    inside = [path for path in space.dimensions if path in _DECISIVE or path.startswith("quantization.")]
    for point in points.reachable(space.dimensions, inside):
        tree = trial_tree(space.form, point)
        try:
            TrialConfig.model_validate(
                {name: tree[name] for name in ("quantization", "calibration", "adapt", "lora")}
            )
            calibration = CalibrationConfig.model_validate(tree["calibration"])
            if calibration.active:
                from trainable.quantization.post_training.stored import chain_of

                chain_of(calibration.method, calibration.transforms)
        except ValidationError as error:
            message = meaning(error.errors()[0])
            raise reached(inside, point, message, ("trial", "calibration"), space.complaints) from None
        except UserError as error:
            raise reached(inside, point, str(error), ("trial", "calibration"), space.complaints) from None
