"""What calibration does beyond rounding one weight after another: a plug-in of `calibration.corrections`.

A correction is one file here and one line in `trainable.registry.CORRECTIONS`. Corrections act in the order
of the registry, whatever the order in which a trial names them: later ones make up for earlier ones.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from spaces.config import CalibrationConfig, PluginRef
from spaces.errors import UserError
from trainable.registry import CORRECTIONS, Params

if TYPE_CHECKING:
    from trainable.quantization.post_training.block import Block


class Correction(ABC):
    """A subclass has `name`, one sentence here, `Params`, and one or both of the two steps."""

    name: ClassVar[str]
    Params: ClassVar[type[Params]] = Params
    needs: ClassVar[frozenset[str]] = frozenset()
    """Kinds of statistics of each interval of the noise level that it reads."""
    by_interval: ClassVar[bool] = False
    """Whether what it fits differs between the intervals of the noise level."""
    by_state: ClassVar[bool] = False
    """Whether what it fits differs between masked and seen tokens."""
    attention: ClassVar[bool] = False
    """Whether it acts on attention layers, whose output projection must then be rounded."""
    late: ClassVar[bool] = False
    """Whether it changes the output projection of attention (`Block.fold`), which is then rounded last."""

    def __init__(self, params: Any):
        self.params = params
        self.facts: dict[str, float] = {}
        """Numbers worth a column, `calibration_NAME` there; sums over the blocks."""

    def problem(self, calibration: CalibrationConfig) -> str | None:
        """Why it cannot act under these settings, in one line; None where it can."""
        return None

    def layers(self, block: Block, names: Sequence[str]) -> None:  # noqa: B027 - some act on blocks alone
        """Called when these Linears of a block have been rounded; their statistics are still there."""

    def finish(self, block: Block) -> None:  # noqa: B027 - some act on layers alone
        """Called when the Linears of a block have been rounded."""


def corrections_of(calibration: CalibrationConfig) -> list[Correction]:
    """The corrections of a trial, in the order in which they act. Raises `UserError` for what cannot go
    together, in one line."""
    refs = [PluginRef.model_validate(ref) for ref in calibration.corrections]
    found = {ref.name: CORRECTIONS.build(ref) for ref in refs}
    if len(found) < len(refs):
        raise UserError("calibration.corrections: one of a name; found "
                        + ", ".join(ref.name for ref in refs))
    chosen = [found[name] for name in CORRECTIONS if name in found]
    for each in chosen:
        reason = each.problem(calibration)
        if reason is None and each.attention and "attention" not in calibration.sites:
            reason = "needs site attention among calibration.sites"
        if reason is not None:
            raise UserError(f"calibration.corrections: {each.name} {reason}")
    static = calibration.activation_range == "static"
    if static and calibration.activation_bits == 16:
        raise UserError("calibration.activation_range: static needs calibration.activation_bits of 4 or 8: "
                        "with 16 no input is rounded")
    by_interval = static or any(each.by_interval for each in chosen)
    if calibration.intervals > 1 and not by_interval:
        able = [name for name in CORRECTIONS if CORRECTIONS.get(name).by_interval]
        raise UserError(f"calibration.intervals: {calibration.intervals} and nothing that differs between "
                        f"them; legal with one of the corrections {', '.join(able)}, or "
                        f"activation_range: static")
    if "projection" in calibration.sites and (calibration.intervals > 1
                                              or any(each.by_state for each in chosen)):
        raise UserError("calibration.sites: projection is not run on whole rows, so nothing there can depend "
                        "on their noise level (calibration.intervals above 1, state_clip)")
    return chosen
