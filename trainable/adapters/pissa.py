"""PiSSA: the adapter takes the principal directions."""

from __future__ import annotations

from trainable.adapters.base import AdapterStart, Layer, Start, low_rank


class PiSSA(AdapterStart):
    """PiSSA (2404.02948): L R is the best rank-r part of W itself, the rest is quantized and frozen."""

    name = "pissa"
    corrects = False

    def start(self, layer: Layer) -> Start:
        """L R = SVD_r(W), master W - L R."""
        up, down = low_rank(layer.weight, layer.rank)
        return Start(layer.weight - up @ down, up, down)
