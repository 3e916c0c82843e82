"""A model that runs, from the tensors and the packing of an artifact."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from spaces.config import PluginRef, TrialConfig
from trainable.adapters.intervals import AdaptedByInterval
from trainable.artifacts.packing import SPLIT, decoded, parts_of
from trainable.artifacts.reading import check_fit, finite, intervals_of
from trainable.control.conditions import symbols_of
from trainable.control.lexicon import Lexicon
from trainable.models.backbone import Backbone
from trainable.models.noise import Noise
from trainable.models.parts import Table
from trainable.quantization.body_formats import BodyFormat
from trainable.quantization.post_training.attention import RoundedAttention, attach, attention_of
from trainable.quantization.post_training.intervals import Intervals
from trainable.quantization.post_training.running import RoundedLinear, Running
from trainable.quantization.post_training.stored import KEY, restored, running_of
from trainable.registry import BACKBONES, BODIES, PROCESSES, QUANTIZERS


def blank_model(config: TrialConfig, lexicon: Lexicon) -> Backbone:
    """A model of the configured shape without adapters or quantizers, on the meta device: weights
    will be assigned."""
    backbone, params = BACKBONES.get(config.model.name), BACKBONES.params(config.model)
    symbols = symbols_of(getattr(params, "conditions", ()), lexicon)
    with torch.device("meta"):
        return backbone.from_config(params, PROCESSES.params(config.diffusion), lexicon.vocab,
                                    symbols=symbols, pretrained=False)


def is_matrix(shape: tuple[int, ...]) -> TypeGuard[tuple[int, int]]:
    """Whether it is a weight's of a linear map."""
    return len(shape) == 2


def shapes_of(model: Backbone) -> dict[str, tuple[int, ...]]:
    """Shape of each weight by name."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def assembled(config: TrialConfig, lexicon: Lexicon, tensors: dict[str, Tensor], packing: dict[str, dict],
              device: torch.device, run_codes: bool = True, table: Table = "decoded") -> Backbone:
    """`filled`, of a blank model, after what there is was found to fit."""
    model = blank_model(config, lexicon)
    check_fit(tensors, packing, shapes_of(model), config.lora)
    return filled(model, tensors, packing, device, run_codes, table)


@torch.no_grad()
def filled(model: Backbone, tensors: dict[str, Tensor], packing: dict[str, dict], device: torch.device,
           run_codes: bool = True, table: Table = "decoded") -> Backbone:
    """The exported model, in eval mode on `device`, from what `packed_tensors` gave. `model` is blank.

    Weights are assigned, never copied over random ones, and packed ones are taken out of `tensors` as they
    are used: a large model is built without its float size, or twice its packed size, in memory.
    Raises ValueError, KeyError or RuntimeError where tensors, packing and the model's shape do
    not fit each other.
    """
    shapes = {name: shape for name, shape in shapes_of(model).items() if is_matrix(shape)}
    running: dict[str, BodyFormat] = {}
    rounding: list[str] = []
    packed = None
    words = model.sites()["embedding"][0]
    if run_codes:
        packed = model.packed_table(table, packing.get(f"{words}.weight", {}),
                                    parts_of(tensors, f"{words}.weight"), device)
        rounding = [name for name, entry in packing.items()
                    if KEY in entry and (entry["activation_bits"] < 16 or "running" in entry)]
        for name, entry in packing.items():
            if ("body" in entry
                    and (form := BODIES.build(PluginRef(**entry["body"]))).runs(shapes[name], device)):
                running[name] = form
    split = [name for name, entry in packing.items() if intervals_of(entry) > 1]
    done = running.keys() | set(rounding) | set(split) | ({f"{words}.weight"} if packed else set())
    state = decoded({key: value for key, value in tensors.items() if key.partition(SPLIT)[0] not in done},
                    {name: entry for name, entry in packing.items() if name not in done})
    plain = next((value.dtype for name, value in tensors.items() if SPLIT not in name), torch.float32)
    state = {name: finite(name, value).to(device, plain) for name, value in state.items()}
    for name, form in running.items():
        module = name.removesuffix(".weight")
        parts = {part: tensors.pop(name + SPLIT + part).to(device) for part in parts_of(tensors, name)}
        bias = state.pop(module + ".bias", None)
        model.set_submodule(module, form.linear(form.checked(parts, shapes[name]), shapes[name], bias))
        state |= {f"{module}.{key}": value for key, value in model.get_submodule(module).state_dict().items()}
    for name in rounding:
        module = name.removesuffix(".weight")
        parts = {part: tensors.pop(name + SPLIT + part) for part in parts_of(tensors, name)}
        what = running_of(packing[name], parts, shapes[name])
        quantized = restored(packing[name], parts, shapes[name])
        if what.by_noise and model.noise is None:
            model.noise = Noise()
        if what.attention is not None:
            _attend(model, module, what, device)
        if what.plain:
            state[name] = finite(name, quantized.effective).to(device, plain)
            continue
        layer = RoundedLinear(quantized, what, state.pop(module + ".bias", None), device, model.noise)
        model.set_submodule(module, layer)
        state |= {f"{module}.{key}": value for key, value in layer.state_dict().items()}
    for name in split:
        _adapt(model, name, packing[name], {part: tensors.pop(name + SPLIT + part)
                                            for part in parts_of(tensors, name)}, state, device, plain)
    if packed:
        model.set_submodule(words, packed)
        state |= {f"{words}.{key}": value for key, value in packed.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _adapt(model: Backbone, name: str, entry: dict, parts: dict[str, Tensor], state: dict[str, Tensor],
           device: torch.device, dtype: torch.dtype) -> None:
    """Put a layer with adapters of each interval of the noise level in its place, and its tensors in
    `state`."""
    module, count, (out, into) = name.removesuffix(".weight"), intervals_of(entry), entry["shape"]
    a, b = parts.pop("lora_a").view(count, -1, into), parts.pop("lora_b").view(count, out, -1)
    weight = QUANTIZERS.build(PluginRef(**entry["quantizer"])).decode(parts, (out, into))
    weight, a, b = (finite(name, value).to(device, dtype) for value in (weight, a, b))
    model.noise = model.noise or Noise()
    layer = AdaptedByInterval(weight, state.pop(f"{module}.bias", None), a, b, model.noise)
    model.set_submodule(module, layer)
    state |= {f"{module}.{key}": value for key, value in layer.state_dict().items()}


def _attend(model: Backbone, output: str, running: Running, device: torch.device) -> None:
    """Let the attention that `output` reads round as it is stored. Raises ValueError where there is none."""
    parts = next((found for end in range(len(output), 0, -1) if output[end:end + 1] in ("", ".")
                  and (found := attention_of(model, output[:end])) is not None and found.output == output),
                 None)
    if parts is None:
        raise ValueError(f"{output} reads no attention whose values or probabilities could be rounded")
    attach(model.get_submodule(parts.core), RoundedAttention(
        running.attention, Intervals(running.boundaries), device, model.noise))
