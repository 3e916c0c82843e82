"""One block of a model while it is calibrated: its Linears, what is known of their inputs, what becomes of
them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trainable.models.backbone import Backbone
from trainable.models.noise import Noise
from trainable.quantization.post_training.attention import Parts, RoundedAttention, attach
from trainable.quantization.post_training.base import PostTraining
from trainable.quantization.post_training.intervals import Intervals
from trainable.quantization.post_training.quantize import Quantized, quantize
from trainable.quantization.post_training.running import AttentionRounding, RoundedLinear, Running
from trainable.quantization.post_training.statistics import Calibration

Watch = Mapping[str, Callable[[Tensor], None]]
"""What is called with the inputs of modules, by name."""


class Feed(Protocol):
    """Shows the calibration states to one block."""

    number: int
    """Of the batch that is being shown."""

    def reach(self, block: str) -> None:
        """Make ready to show it."""

    def run(self, block: str, watch: Watch) -> None:
        """Show all batches to a block, as far as what is watched, inputs from blocks already rounded."""

    def token_weights(self, block: str, number: int) -> Tensor | None:
        """[B, L] of a batch, None where tokens count alike."""


class Layer(NamedTuple):
    """A Linear that has been rounded."""

    done: Quantized
    running: Running
    original: Tensor
    """Its float weight [out, in] before."""


class Block:
    """Linears of one block of `model`, in order, and `parts` of its attention where all of it is there."""

    def __init__(self, model: Backbone, name: str, linears: Sequence[str], parts: Parts | None, feed: Feed,
                 methods: Mapping[str, PostTraining], bits: int, intervals: Intervals):
        self.model, self.name, self.linears, self.parts = model, name, list(linears), parts
        self.feed, self.methods, self.bits, self.intervals = feed, methods, bits, intervals
        self.layers: dict[str, Layer] = {}
        self.biases: dict[str, Tensor] = {}
        """New biases by the name of their tensor."""
        self.full: list[Tensor] = []
        """What the output projection reads in the full-precision model, batch by batch, where it is asked
        for."""
        self.attention: RoundedAttention | None = None
        self.statistics: Calibration | None = None

    @property
    def noise(self) -> Noise:
        """Of the batch that is being shown."""
        assert self.model.noise is not None
        return self.model.noise

    def running(self, name: str) -> Running:
        """What a rounded layer does, that of the attention it reads included."""
        running = self.layers[name].running
        if self.parts is not None and name == self.parts.output and self.attention is not None:
            running = replace(running, attention=self.attention.rounding)
        return running

    def linear(self, name: str) -> nn.Linear | RoundedLinear:
        """The layer as it is now."""
        module = self.model.get_submodule(name)
        assert isinstance(module, nn.Linear | RoundedLinear)
        return module

    def run(self, watch: Watch) -> None:
        """Show all states to the block as it is now."""
        self.feed.run(self.name, watch)

    def collect(self, names: Iterable[str], needs: frozenset[str], apart: bool = False) -> Calibration:
        """Statistics of the inputs of some Linears, by interval where they are kept `apart`."""
        found = Calibration(needs, self.intervals if apart else None)

        def count(name: str, x: Tensor) -> None:
            weight = self.feed.token_weights(self.name, self.feed.number)
            found.add(name, x, self.noise.level if len(found.intervals) > 1 else None,
                      weight if weight is not None and weight.shape == x.shape[:-1] else None)

        if needs:
            self.run({name: lambda x, name=name: count(name, x) for name in names})  # type: ignore[misc]
        return found

    def round(self, name: str, statistics: Calibration) -> None:
        """Round one Linear, in place of what it was; weights that share its memory stay as they are."""
        weight = self.linear(name).weight
        method = self.methods[name]
        done = quantize(method, weight, statistics.merged(name) if method.needs else None)
        self.layers[name] = Layer(done, Running(self.bits, self.intervals.boundaries), weight.detach())
        self.put(name)

    def fold(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        """Give a Linear that is not rounded yet another weight and, where it has one, another bias."""
        linear = self.linear(name)
        linear.weight = nn.Parameter(weight.to(linear.weight.device), requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.to(linear.weight.device), requires_grad=False)
            self.biases[f"{name}.bias"] = bias

    def change(self, name: str, **running: object) -> None:
        """Let a rounded layer run otherwise: fields of `Running`."""
        layer = self.layers[name]
        self.layers[name] = layer._replace(running=replace(layer.running, **running))  # type: ignore[arg-type]
        self.put(name)

    def put(self, name: str) -> None:
        """Put a rounded layer into the model."""
        put(self.model, name, self.layers[name].done, self.layers[name].running)

    def look(self, seen: Callable[[Tensor, Tensor, Tensor | None], None]) -> None:
        """Show all states and call `seen` with probabilities, values and allowed keys of the attention."""
        assert self.parts is not None
        attention = self.attended()
        self.feed.reach(self.name)  # which may run the model
        attention.look = seen
        try:
            self.run({self.parts.output: lambda _: None})
        finally:
            attention.look = None

    def let_attend(self, rounding: AttentionRounding) -> None:
        """Let the attention of this block round so; what it rounds is stored with its output projection."""
        self.attended().set(rounding)

    def attended(self) -> RoundedAttention:
        """What the attention of this block computes through."""
        assert self.parts is not None
        if self.attention is None:
            core = self.model.get_submodule(self.parts.core)
            self.attention = RoundedAttention(None, self.intervals, self.model.get_parameter(
                f"{self.parts.output}.weight").device, self.model.noise)
            attach(core, self.attention)
        return self.attention


def put(model: Backbone, name: str, done: Quantized, running: Running) -> None:
    """Replace Linear `name` by its quantized form: a new weight, or a layer that does more.

    The old weight is left as it was: others may share its memory.
    """
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear | RoundedLinear)
    device = linear.weight.device
    if running.plain:
        linear.weight = nn.Parameter(done.effective.to(device), requires_grad=False)
        return
    with torch.no_grad():
        model.set_submodule(name, RoundedLinear(done, running, linear.bias, device, model.noise))
