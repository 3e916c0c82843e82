"""INT2.1: the adapter that repairs a layer's output best."""

from __future__ import annotations

import torch

from trainable.adapters.base import AdapterStart, Layer, Start, low_rank


class Int21(AdapterStart):
    """INT2.1 (2306.08162): L R is the least-squares fit of rank r to (W - Q) x over calibration inputs x."""

    name = "int2.1"
    needs = ("moment",)

    def start(self, layer: Layer) -> Start:
        """With H = E[x x^T] = S S^T: SVD_r((W - Q) S) = L (R S), so R is right up to directions
        that no input has."""
        assert layer.moment is not None
        values, vectors = torch.linalg.eigh(layer.moment.double())
        kept = values > 1e-10 * values.max()
        root = vectors[:, kept] * values[kept].sqrt()
        error = (layer.weight - layer.quantized(layer.weight)).double()
        up, down = low_rank(error @ root, layer.rank)
        down = (down / values[kept].sqrt()) @ vectors[:, kept].T
        missing = layer.rank - len(down)  # fewer input directions than ranks
        up, down = (torch.nn.functional.pad(up, (0, missing)),
                    torch.nn.functional.pad(down, (0, 0, 0, missing)))
        return Start(layer.weight, up.to(layer.weight.dtype), down.to(layer.weight.dtype))
