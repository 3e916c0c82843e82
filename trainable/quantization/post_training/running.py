"""What a post-trained layer does when it runs, beyond multiplying: the numbers, how they are stored, the
layer.

An artifact's entry of such a weight has a key "running" (absent where nothing of this is asked for):

    {"boundaries": [0.5], "range": "static", "clip": true, "scales": "both",
     "attention": {"heads": 4, "features": 64, "value_bits": 4, "softmax_bits": 8}}

and float32 arrays: `input_range` and `clip_ratios` [K, 2], `output_scales` [K, out], `input_scales` [K, in],
and of the attention before an output projection `value_scale` [features] and `softmax_beta` [K, heads]; K is
the number of intervals of the noise level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainable.models.noise import Noise
from trainable.quantization.post_training.activations import ActivationParams, ActivationQuantizer, Range
from trainable.quantization.post_training.base import Shape
from trainable.quantization.post_training.interval_scales import IntervalScales
from trainable.quantization.post_training.intervals import Intervals
from trainable.quantization.post_training.maps import ChannelScale
from trainable.quantization.post_training.quantize import Quantized

MOST_INTERVALS = 64


class ValueScales(NamedTuple):
    """Scale of each feature, float32 [features], and the largest level."""

    scale: Tensor
    levels: float

    def fake_quantize(self, values: Tensor) -> Tensor:
        """[..., features] -> rounded, same dtype."""
        levels = (values.float() / self.scale).round_().clamp_(-self.levels, self.levels)
        return (levels * self.scale).to(values.dtype)


@dataclass(frozen=True)
class AttentionRounding:
    """What is rounded between the projections of an attention layer; None = it is not."""

    heads: int
    features: int
    """Of the values: key-value heads times the size of a head."""
    value_bits: int | None = None
    value_scale: Tensor | None = None
    """Float32 [features]."""
    softmax_bits: int | None = None
    beta: Tensor | None = None
    """Float32 [K, heads], added to rounded probabilities."""

    def entry(self) -> dict[str, int]:
        """What config.json says of it."""
        found = {"heads": self.heads, "features": self.features, "value_bits": self.value_bits,
                 "softmax_bits": self.softmax_bits}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Running:
    """What one layer does. The default is a Linear whose inputs are not rounded."""

    bits: int = 16
    """Of its inputs."""
    boundaries: tuple[float, ...] = ()
    """Between the intervals of the noise level."""
    ranges: Tensor | None = None
    """[K, 2] ends of static ranges; none: each token its own."""
    clips: Tensor | None = None
    """[K, 2] shares that are kept of the ranges of seen and of masked tokens."""
    scales: IntervalScales | None = None
    attention: AttentionRounding | None = None
    """Of the attention whose outputs this layer reads."""

    @property
    def plain(self) -> bool:
        """Whether it is no more than a weight."""
        return self.bits == 16 and self.scales is None

    @property
    def by_noise(self) -> bool:
        """Whether it has to know how noisy rows are."""
        softmax = self.attention is not None and self.attention.beta is not None and len(self.boundaries) > 0
        return (self.clips is not None or self.scales is not None and len(self.boundaries) > 0
                or self.ranges is not None and len(self.boundaries) > 0 or softmax)

    def entry(self) -> dict[str, Any] | None:
        """What config.json says of it beside `activation_bits`; None where that is all."""
        found: dict[str, Any] = {}
        if self.ranges is not None:
            found["range"] = "static"
        if self.clips is not None:
            found["clip"] = True
        if self.scales is not None:
            found["scales"] = "both" if bool((self.scales.inputs != 1).any()) else "outputs"
        if self.attention is not None:
            found["attention"] = self.attention.entry()
        return {"boundaries": list(self.boundaries), **found} if found else None

    def arrays(self) -> dict[str, Tensor]:
        """What is written: float32, 1-D."""
        attention = self.attention
        found = {"input_range": self.ranges, "clip_ratios": self.clips,
                 "output_scales": None if self.scales is None else self.scales.outputs,
                 "input_scales": None if self.scales is None or not bool((self.scales.inputs != 1).any())
                 else self.scales.inputs,
                 "value_scale": attention.value_scale if attention else None,
                 "softmax_beta": attention.beta if attention else None}
        return {name: value.detach().float().flatten().contiguous()
                for name, value in found.items() if value is not None}


def layout_of(entry: Mapping[str, Any], shape: Shape) -> dict[str, int]:
    """Arrays of an entry's "running", with their numbers of elements. Raises ValueError, KeyError or
    TypeError where it is none."""
    said = entry.get("running")
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        raise ValueError("running: no mapping")
    count = len(_intervals(said))
    found = {name: 2 * count for name, key in (("input_range", "range"), ("clip_ratios", "clip"))
             if said.get(key)}
    if said.get("scales") not in (None, "outputs", "both"):
        raise ValueError(f"running: scales {said['scales']!r}; legal: outputs, both")
    if said.get("scales"):
        found["output_scales"] = count * shape[0]
    if said.get("scales") == "both":
        found["input_scales"] = count * shape[1]
    attention = said.get("attention")
    if attention is not None:
        heads, features = _whole(attention, "heads", shape[1]), _whole(attention, "features", shape[1])
        if shape[1] % heads or features % (shape[1] // heads):
            raise ValueError(f"running: {heads} heads and {features} features of values, width {shape[1]}")
        if "value_bits" in attention:
            _whole(attention, "value_bits", 8)
            found["value_scale"] = features
        if "softmax_bits" in attention:
            _whole(attention, "softmax_bits", 8)
            found["softmax_beta"] = count * heads
    return found


def restored(entry: Mapping[str, Any], arrays: Mapping[str, Tensor], shape: Shape) -> Running:
    """The reverse of `Running.entry` and `.arrays`. Raises ValueError, KeyError or TypeError."""
    bits, said = entry["activation_bits"], entry.get("running")
    if said is None:
        return Running(bits)
    counts = layout_of(entry, shape)
    for name, count in counts.items():
        if arrays[name].dtype != torch.float32 or arrays[name].numel() != count:
            raise ValueError(f"{name}: {arrays[name].dtype} x {arrays[name].numel()}, expected float32 x "
                             f"{count}")
    intervals = _intervals(said)
    rows = {name: arrays[name].view(len(intervals), -1) for name in counts if name != "value_scale"}
    scales = None
    if "output_scales" in rows:
        outputs = rows["output_scales"]
        scales = IntervalScales(outputs, rows.get("input_scales", torch.ones(len(intervals), shape[1])))
    attention = None
    if (about := said.get("attention")) is not None:
        attention = AttentionRounding(about["heads"], about["features"], about.get("value_bits"),
                                      arrays["value_scale"] if "value_scale" in counts else None,
                                      about.get("softmax_bits"), rows.get("softmax_beta"))
    return Running(bits, intervals.boundaries, rows.get("input_range"), rows.get("clip_ratios"), scales,
                   attention)


def _intervals(said: Mapping[str, Any]) -> Intervals:
    edges = said["boundaries"]
    if not isinstance(edges, list) or len(edges) >= MOST_INTERVALS or any(type(edge) is not float
                                                                          for edge in edges):
        raise ValueError(f"running: boundaries {str(edges)[:60]}, expected a list of numbers")
    return Intervals(tuple(edges))


def _whole(said: Mapping[str, Any], name: str, most: int) -> int:
    value = said[name]
    if type(value) is not int or not 0 < value <= most:
        raise ValueError(f"running: {name} {str(value)[:20]!r}, expected a whole number of 1 to {most}")
    return value


class RoundedLinear(nn.Module):
    """A Linear that rounds its inputs behind the maps that its weight was made for, and whose scales may
    depend on the noise level."""

    traceable = False

    ranges: Tensor | None
    clips: Tensor | None
    outputs: Tensor | None
    inputs: Tensor | None

    def __init__(self, done: Quantized, running: Running, bias: Tensor | None,
                 device: torch.device | str = "cpu", noise: Noise | None = None):
        super().__init__()
        self.out_features, self.in_features = done.weight.shape
        self.weight = nn.Parameter(done.weight.to(device), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(device, torch.float32),
                                                           requires_grad=False)
        self.maps = tuple(
            ChannelScale(each.scale.to(device)) if isinstance(each, ChannelScale) else each
            for each in done.maps
        )
        self.activations = ActivationQuantizer(ActivationParams.model_validate({
            "bits": running.bits, "range": "dynamic" if running.ranges is None else "static"}))
        self.intervals, self.noise = Intervals(running.boundaries), noise
        for name in ("ranges", "clips"):
            value = getattr(running, name)
            self.register_buffer(name, None if value is None else value.to(device), persistent=False)
        scales = running.scales
        self.register_buffer("outputs", None if scales is None else scales.outputs.to(device),
                             persistent=False)
        self.register_buffer("inputs", None if scales is None or not bool((scales.inputs != 1).any())
                             else scales.inputs.to(device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], computed in float32. Gradients pass the rounding straight through."""
        return self._computed(self.mapped(x.float())).to(x.dtype)

    def _computed(self, x: Tensor) -> Tensor:
        rounded = self.activations.fake_quantize(x.detach(), self._ends(x.detach()))
        x = x + (rounded - x).detach()
        if self.outputs is None:
            return nn.functional.linear(x, self.weight, self.bias)
        if self.inputs is not None:
            x = x * self._rows(self.inputs, x)
        y = nn.functional.linear(x, self.weight) * self._rows(self.outputs, x)
        return y if self.bias is None else y + self.bias

    def mapped(self, x: Tensor) -> Tensor:
        """Inputs behind the maps: what is rounded."""
        for each in self.maps:
            x = each.inputs(x)
        return x

    def _ends(self, x: Tensor) -> Range | None:
        if self.ranges is not None:
            ends = self._rows(self.ranges, x)
            return Range(ends[..., :1], ends[..., 1:])
        if self.clips is None or self.activations.params.bits == 16:
            return None
        assert self.noise is not None
        both = self._rows(self.clips, x)
        return self.activations.token_range(x, torch.where(self.noise.masked[..., None], both[..., 1:],
                                                           both[..., :1]))

    def _rows(self, table: Tensor, x: Tensor) -> Tensor:
        """[K, n] -> what broadcasts against [B, ..., n], by the interval of each row."""
        if len(table) == 1:
            return table[0]
        assert self.noise is not None
        own = table[self.intervals.index(self.noise.level)]
        return own.view(len(own), *[1] * (x.ndim - 2), own.shape[1])

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, inputs of {self.activations.params.bits} bits"
