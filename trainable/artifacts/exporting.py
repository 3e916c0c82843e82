"""Forms in which an artifact leaves this program for others."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from spaces.errors import UserError
from spaces.values import did_you_mean

FORMS = {
    "hf": "trainable.artifacts.huggingface:export_transformers",
    "compressed-tensors": "trainable.artifacts.compressed:export_compressed",
    "onnx": "trainable.artifacts.onnx_graph:export_onnx",
}
"""Name -> import path of a function (artifact, out) -> out. A new form is one function and one line here."""


def export_to(form: str, artifact: Path, out: Path) -> Path:
    """Write the artifact at `out` in a form of `FORMS`. Raises `UserError`."""
    if form not in FORMS:
        raise UserError(f"unknown form {form!r}{did_you_mean(form, FORMS)}; legal: {', '.join(FORMS)}")
    module, _, name = FORMS[form].partition(":")
    found: Path = getattr(import_module(module), name)(artifact, out)
    return found
