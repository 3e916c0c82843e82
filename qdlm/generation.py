"""An exported model in Python. Neither Ray nor Optuna is imported: an artifact stands on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from spaces.config import TrialConfig
from spaces.errors import UserError
from spaces.extras import check
from spaces.uris import is_uri, origin
from trainable.artifacts.artifact import Loaded, seeded
from trainable.artifacts.artifact import load as load_artifact
from trainable.artifacts.texts import texts
from trainable.models.backbone import Backbone

if TYPE_CHECKING:
    from search.reporting.trials import Trial

Control = Mapping[str, Any] | Sequence[str] | str
By = Literal["gradient", "classifier_free", "both", "reweight"]


class Model:
    """An exported model, ready to run. `load` makes one."""

    def __init__(self, loaded: Loaded):
        """Use `load`."""
        self._loaded = loaded

    @property
    def path(self) -> Path:
        """The artifact's folder."""
        return self._loaded.path

    @property
    def config(self) -> TrialConfig:
        """The trial's settings."""
        return self._loaded.config

    @property
    def facts(self) -> dict[str, Any]:
        """How it was made, and its sizes."""
        return dict(self._loaded.facts)

    @property
    def module(self) -> Backbone:
        """The torch module."""
        return self._loaded.model

    def generate(self, n: int = 1, control: Control | None = None, *, seed: int = 0, steps: int | None = None,
                 by: By | None = None, scale: float | None = None) -> list[str]:
        """`n` sentences; with the same `seed`, those of `qdlm generate --seed`.

        `control`: what they shall satisfy, `{"length": 12, "food": "Italian"}`, `"length=12"` or a list of
        such. `steps`: of the sampler; `by` and `scale`: what leads to the control and how strongly; all three
        instead of the exported settings. Raises `UserError` for a control that the model does not know.
        """
        return [row["text"] for row in self.samples(n, control, seed=seed, steps=steps, by=by, scale=scale)]

    def samples(self, n: int = 1, control: Control | None = None, *, seed: int = 0, steps: int | None = None,
                by: By | None = None, scale: float | None = None) -> Iterator[dict[str, Any]]:
        """As `generate`, one by one and with what the tasks' oracles say: `text`, and under a control
        `control`, `oracle`, `success` (0 to 1) and each task's own scores."""
        if n < 1:
            raise UserError(f"n: {n} sentences were asked for; legal: 1 or more")
        if steps is not None and steps < 1:
            raise UserError(f"steps: {steps}; legal: 1 or more")
        guidance = {name: value for name, value in (("by", by), ("scale", scale)) if value is not None}
        batches = texts(self._loaded, n, seeded(self.path, seed), controls=_controls(control), steps=steps,
                        guidance=guidance)
        return (row for batch in batches for row in batch)

    def export(self, out: str | Path, to: str = "hf") -> Path:
        """Write the model for other programs, as `qdlm export`: `hf` for transformers and peft,
        `compressed-tensors`, `onnx`. Raises `UserError` for what an architecture cannot give."""
        from trainable.artifacts.exporting import export_to

        return export_to(to, self.path, Path(out))

    def __repr__(self) -> str:
        return f"qdlm.Model({str(self.path)!r})"


def load(artifact: str | Path | Trial, device: str | torch.device = "cpu") -> Model:
    """The exported model in a folder, at a URI, or of a trial that is on a front. Raises `UserError`."""
    if not isinstance(artifact, str | Path):
        if artifact.artifact is None:
            raise UserError(f"trial {artifact.number} has no exported model, only members of the front have "
                            f"one: {artifact.why}")
        artifact = artifact.artifact
    path = Path(artifact)
    place = str(artifact) if is_uri(artifact) else None if path.is_dir() else origin(path)
    if place is not None:
        check(["pyarrow"])
        from search.records.sync import fetch_artifact

        path = fetch_artifact(place, lambda text: None)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected an artifact, such as RUN/artifacts/trial-0003")
    return Model(load_artifact(path, device))


def _controls(control: Control | None) -> list[str]:
    """The controls as the command line writes them."""
    if control is None:
        return []
    if isinstance(control, str):
        return [control]
    if isinstance(control, Mapping):
        return [f"{key}={value}" for key, value in control.items()]
    return list(control)
