"""What one run for every rank and bit-width asks of the rest of a trial, at every combination that a
space reaches."""

from __future__ import annotations

from pydantic import ValidationError

from spaces import points
from spaces.complaints import meaning
from spaces.config import TrialConfig
from spaces.errors import UserError
from spaces.paths import settings_in
from spaces.rules import reached, trial_tree
from spaces.schema import Space

_GROUPS = ("quantization", "calibration", "lora", "adapt", "model", "diffusion")


def check_supernet(space: Space) -> None:
    """Every trial is a member: its rank and bits are the supernet's, the quantizer has those bits and the
    layers have those ranks. Nothing else that a supernet depends on has values without end.

    Raises `UserError`.
    """
    given = [*space.dimensions, *(path for path, _ in settings_in(space.form.trial))]
    if "adapt.mode" not in given:
        return
    inside = [path for path in space.dimensions
              if path == "adapt.mode" or f"{path}.".startswith(("quantization.", "lora.", "adapt.", "model."))
              and space.dimensions[path].finite]
    done: set[str] = set()
    for point in points.reachable(space.dimensions, inside):
        tree = trial_tree(space.form, point)
        if tree["adapt"]["mode"] != "supernet":
            continue
        endless = [path for path, dimension in space.dimensions.items() if not dimension.finite
                   and path.startswith(("quantization.", "lora.", "adapt."))]
        if endless:
            raise space.error(("search", endless[0], space.dimensions[endless[0]].kind),
                              "changes the supernet, which is trained once per value, so it needs few; "
                              "use choice or int")
        try:
            _check(TrialConfig.model_validate({name: tree[name] for name in _GROUPS}), done)
        except ValidationError as error:
            message = meaning(error.errors()[0])
            raise reached(inside, point, message, ("trial", "adapt"), space.complaints) from None
        except UserError as error:
            raise reached(inside, point, str(error), ("trial", "adapt"), space.complaints) from None


def _check(config: TrialConfig, done: set[str]) -> None:
    """Raises `UserError` where it is no member; `done`: shapes that were looked at."""
    from trainable.stages.members import check_ranks, member_of

    member_of(config)
    shape = config.model_copy(update={"lora": config.lora.model_copy(update={"rank": 0})})
    key = shape.model_dump_json(include={"model", "diffusion", "lora", "adapt"})
    if key not in done:
        check_ranks(config)
        done.add(key)
