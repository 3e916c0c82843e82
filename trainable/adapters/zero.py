"""No correction: the adapter adds nothing at first."""

from __future__ import annotations

from trainable.adapters.base import AdapterStart, Layer, Start


class Zero(AdapterStart):
    """LoRA's own start (2106.09685): L = 0, R random."""

    name = "zero"

    def start(self, layer: Layer) -> Start | None:
        """As peft does it."""
        return None
