"""Bytes of the exported model on disk."""

from __future__ import annotations

from pathlib import Path

from trainable.metrics.base import Measurable, Metric

RECORDS = ("measurements.json", "samples.json", "manifest.json", "MODEL_CARD.md", "tokenizer.json", "adapter")
"""Files and folders of an artifact that it does not need to run. They are not counted."""


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files in `folder` and below whose names match `pattern`, the records left out."""
    return sum(path.stat().st_size for path in folder.rglob(pattern)
               if path.is_file() and path.relative_to(folder).parts[0] not in RECORDS)


class SizeBytes(Metric):
    """Bytes of the exported folder: packed weights, settings and vocabulary."""

    name, unit, direction = "size_bytes", "B", "minimize"
    cheap = True
    ideal = 0.0

    def measure(self, m: Measurable) -> dict[str, float]:
        """`size_bytes` (the folder without its records) and `size_bytes_weights` (its .safetensors files).

        Before the model is exported they are `facts["exported_bytes"]` and `facts["file_bytes"]`, what
        an export would write; where that is not known either, nothing is returned.
        """
        if m.artifact is not None:
            return {"size_bytes": float(folder_bytes(m.artifact)),
                    "size_bytes_weights": float(folder_bytes(m.artifact, "*.safetensors"))}
        if "exported_bytes" in m.facts:
            return {"size_bytes": float(m.facts["exported_bytes"]),
                    "size_bytes_weights": float(m.facts["file_bytes"])}
        return {}
