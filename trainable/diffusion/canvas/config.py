"""Settings of block diffusion on a canvas of random tokens. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from trainable.registry import Params


class CanvasConfig(Params):
    """The noise that training and the bound draw."""

    timesteps: int = Field(48, ge=2, le=10_000,
                           description="noise levels: at level t a share (t + 1) / timesteps is drawn anew")
