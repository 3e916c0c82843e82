"""What post-training quantization asks of the rest of a trial, at every combination that a space reaches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from search.run.allocation import BITS
from spaces import points
from spaces.complaints import meaning
from spaces.config import CalibrationConfig, PluginRef, TrialConfig
from spaces.errors import UserError
from spaces.paths import settings_in
from spaces.rules import reached, trial_tree
from spaces.schema import Space
from trainable.registry import BACKBONES, POST_TRAINING

_DECISIVE = (
    "calibration.method",
    "calibration.method.name",
    "calibration.transforms",
    "calibration.sites",
    "calibration.activation_bits",
    "calibration.activation_range",
    "calibration.intervals",
    "calibration.corrections",
    "adapt.train",
    "lora.rank",
)
_READING = ("calibration.texts", "calibration.source", "calibration.method", "calibration.method.name",
            "calibration.activation_bits", "calibration.corrections")
"""What decides how many training texts a trial calibrates on."""


def check_calibration(space: Space) -> None:
    """It meets no other quantizer, its transforms can stand where they do, its corrections can act, rotations
    have a Hadamard matrix, and what trains nothing has no adapter.

    Raises `UserError`.
    """
    given = [*space.dimensions, *(path for path, _ in settings_in(space.form.trial))]
    if not any(path == "adapt.train" or path.startswith("calibration") for path in given):
        return
    inside = [path for path in space.dimensions if path in _DECISIVE or path.startswith(
        ("quantization.", "calibration.method.", "calibration.corrections.", "model."))]
    for point in points.reachable(space.dimensions, inside):
        tree = trial_tree(space.form, point)
        try:
            TrialConfig.model_validate(
                {name: tree[name] for name in ("quantization", "calibration", "adapt", "lora")}
            )
            calibration = CalibrationConfig.model_validate(tree["calibration"])
            if calibration.active:
                _check_built(calibration, tree["model"])
                own = acting_bits(space, point)
                said = {part: (bits,) for part, bits in calibration.bits.items()}
                for part, choices in {**said, **own}.items():
                    for bits in choices:
                        _check_bits(part, bits, calibration.method)
                check_parts({**calibration.bits, **own}, calibration, tree["model"])
        except ValidationError as error:
            message = meaning(error.errors()[0])
            raise reached(inside, point, message, ("trial", "calibration"), space.complaints) from None
        except UserError as error:
            raise reached(inside, point, str(error), ("trial", "calibration"), space.complaints) from None


def _check_bits(part: str, bits: Any, method: PluginRef) -> None:
    """Raises `UserError` for a number of bits that the method does not have."""
    try:
        POST_TRAINING.build(with_bits(method, bits))
    except UserError as error:
        raise UserError(f"calibration.bits.{part}={bits}: {error}") from None


def _check_built(calibration: CalibrationConfig, model: dict[str, Any]) -> None:
    """Raises `UserError` for methods and corrections that cannot be, and for widths that they cannot act on,
    where the settings of the model say what widths there will be."""
    from trainable.quantization.post_training.corrections import corrections_of
    from trainable.quantization.post_training.rotation import HadamardRotation
    from trainable.quantization.post_training.stored import chain_of

    chain = chain_of(calibration.method, calibration.transforms)
    corrections = corrections_of(calibration)
    params = BACKBONES.params(PluginRef.model_validate(model))
    hidden, ffn = getattr(params, "hidden", None), getattr(params, "ffn", None)
    widths = {hidden} if "attention" in calibration.sites else set()
    widths |= {hidden, ffn} if "ffn" in calibration.sites else set()
    for width in sorted(width for width in widths if width):
        try:
            chain.layout((1, width))
        except UserError as error:
            raise UserError(f"calibration.method: {error}") from None
        for each in (*chain.transforms, chain.rounding):
            if isinstance(each, HadamardRotation):
                try:
                    each.rotation(width)
                except UserError as error:
                    raise UserError(f"calibration: {error}") from None
    for correction in corrections:
        block = getattr(correction.params, "block", 1)
        if hidden and hidden % block:
            raise UserError(f"calibration.corrections: {correction.name} in blocks of {block}, which do not "
                            f"divide model.hidden={hidden}")


def most_texts(space: Space) -> TrialConfig:
    """A trial of the space that calibrates on as many training texts as any: whether there are so many is
    only known when the corpus is there."""
    inside = [path for path in space.dimensions if path in _READING]
    found, most = space.example, 0
    for point in points.reachable(space.dimensions, inside) if inside else ():
        calibration = CalibrationConfig.model_validate(trial_tree(space.form, point)["calibration"])
        texts = 0 if calibration.source.startswith("rollout") else calibration.texts
        if calibration.active and texts > most:
            found, most = space.config(points.complete(space.dimensions, point)), texts
    return found


def acting_bits(space: Space, point: points.Point) -> dict[str, Sequence[Any]]:
    """The searched bits of parts that this point does not rule out, with their values."""
    return {path.removeprefix(BITS): dimension.values() for path, dimension in space.dimensions.items()
            if path.startswith(BITS) and all(parent not in point or point[parent] in values
                                             for parent, values in dimension.when.items())}


def with_bits(method: PluginRef, bits: int) -> PluginRef:
    """The same method at another number of weight bits."""
    return PluginRef(name=method.name, **{**method.params, "bits": bits})


def check_parts(parts: Iterable[str], calibration: CalibrationConfig, model: Any) -> None:
    """Parts that have bits of their own are rounded, and blocks are there. Raises `UserError`."""
    layers = getattr(BACKBONES.params(PluginRef.model_validate(model)), "layers", None)
    for part in parts:
        site, _, block = part.partition("_")
        if site not in calibration.sites:
            raise UserError(f"calibration.bits: {part} is not rounded; calibration.sites: "
                            f"{', '.join(calibration.sites)}")
        if block and layers is not None and int(block) >= layers:
            raise UserError(f"calibration.bits: {part}: the model has blocks 0 to {layers - 1}")
