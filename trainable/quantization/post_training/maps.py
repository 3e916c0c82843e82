"""What can be done to the inputs of a Linear, so that rounding hurts less, while W x stays the same in exact
arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class InputMap(ABC):
    """An invertible linear map T of a layer's inputs: the layer is fed T x and holds W T^-1. Inputs are rows
    [..., in]."""

    keeps_channels: ClassVar[bool]
    """Whether every channel stays itself, so that statistics per channel are still known behind the map."""

    @property
    def arrays(self) -> dict[str, Tensor]:
        """What is stored beside the weight, unless the layer before takes it in; by default nothing."""
        return {}

    @abstractmethod
    def inputs(self, x: Tensor) -> Tensor:
        """[..., in] -> what the layer is fed instead, same shape and dtype."""

    @abstractmethod
    def weight(self, w: Tensor) -> Tensor:
        """[out, in] -> the float32 weight whose product with `inputs(x)` is that of `w` with x."""

    @abstractmethod
    def undo(self, w: Tensor) -> Tensor:
        """The reverse of `weight`: a weight behind the map -> the one that acts alike on plain inputs."""

    @abstractmethod
    def moment(self, second: Tensor) -> Tensor:
        """Second moment [in, in] of x -> that of `inputs(x)`."""


class ChannelScale(InputMap):
    """Channel j of the inputs divided by s_j > 0, column j of the weight times s_j (AWQ, SmoothQuant)."""

    keeps_channels = True

    def __init__(self, scale: Tensor):
        self.scale = scale.float()

    @property
    def arrays(self) -> dict[str, Tensor]:
        return {"input_scale": self.scale}

    def inputs(self, x: Tensor) -> Tensor:
        return x / self.scale.to(x.device, x.dtype)

    def weight(self, w: Tensor) -> Tensor:
        return w.float() * self.scale

    def undo(self, w: Tensor) -> Tensor:
        return w / self.scale

    def moment(self, second: Tensor) -> Tensor:
        scale = self.scale.to(second.dtype)
        return second / scale[:, None] / scale
