"""LoftQ: adapter and codes from alternating least squares."""

from __future__ import annotations

from pydantic import Field

from trainable import registry
from trainable.adapters.base import AdapterStart, Layer, Start, low_rank


class LoftQ(AdapterStart):
    """LoftQ (2310.08659): L R = SVD_r(W - Q), then Q = quantizer(W - L R), in turn; the best
    round is kept."""

    name = "loftq"

    class Params(registry.Params):
        """`rounds`: T. 1 is one SVD of W - quantizer(W), as peft does by default."""

        rounds: int = Field(5, ge=1, le=1000,
                            description="alternations; the one with the least error is kept")

    params: Params

    def start(self, layer: Layer) -> Start:
        """Least ||W - Q - L R|| in the Frobenius norm over the rounds."""
        best, least, master = None, float("inf"), layer.weight
        for _ in range(self.params.rounds):
            up, down = low_rank(layer.weight - layer.quantized(master), layer.rank)
            found = Start(master, up, down)
            error = float(found.residual(layer).norm())
            if best is None or error < least:
                best, least = found, error
            master = layer.weight - up @ down
        assert best is not None
        return best
