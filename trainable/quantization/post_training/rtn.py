"""Rounding to nearest: what every other method is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from trainable.quantization.post_training.grid import GridMethod, GridParams


class RoundToNearest(GridMethod):
    """Each weight becomes the nearest level of its row's or group's range; needs no calibration."""

    name = "rtn"

    @classmethod
    def examples(cls) -> Sequence[BaseModel]:
        make = GridParams
        return [make(), make(bits=2, group=16), make(bits=3, symmetric=True), make(bits=8, scale_bits=32),
                make(bits=4, clip="search"), make(bits=5, symmetric=True, clip="search", group=8)]
