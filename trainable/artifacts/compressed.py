"""An artifact in the layout of the compressed-tensors library, which transformers loads (and vLLM, which was
not tried): the codes of the body stay codes. All else is as in `huggingface`.

    config.json        `quantization_config`: bits, groups and rounding of inputs, for which layers
    model.safetensors  `NAME.weight_packed` (or int8 `NAME.weight` where inputs are rounded, too),
                       `NAME.weight_scale`, `NAME.weight_zero_point`; floats for all other tensors
"""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from spaces.config import PluginRef
from spaces.errors import UserError
from spaces.shell import extra_command
from trainable.artifacts.artifact import read_files
from trainable.artifacts.huggingface import beside, numbered, plain, quiet
from trainable.artifacts.packed import WEIGHTS
from trainable.artifacts.packing import parts_of
from trainable.artifacts.reading import read_tensors
from trainable.quantization.int8_body import Int8Dynamic
from trainable.quantization.post_training.stored import KEY, chain_of, restored
from trainable.quantizers.base import IntegerGroups
from trainable.registry import BODIES, QUANTIZERS
from trainable.storage.folders import whole_folder

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationConfig

BODY = "body."
_PAGE = """
The layers of the body are codes, as in the artifact: transformers needs `pip install compressed-tensors` for
them, and decodes them once, when it reads the model or when the model first runs.
"""


class Rounding(NamedTuple):
    """Of a layer's inputs, by the range of each token."""

    bits: int
    symmetric: bool


class Scheme(NamedTuple):
    """What layers of one format have in common."""

    bits: int
    group: int | None
    symmetric: bool
    inputs: Rounding | None


class Layer(NamedTuple):
    """A Linear as codes."""

    weight: IntegerGroups
    inputs: Rounding | None

    @property
    def scheme(self) -> Scheme:
        """Its format."""
        return Scheme(self.weight.bits, self.weight.group, self.weight.zero is None, self.inputs)


def export_compressed(artifact: Path, out: Path) -> Path:
    """Write `out` (whole or not at all), which must not be there. The weights that other programs decode are
    those of the artifact, bit for bit where its floats are float32.

    Raises `UserError` without the library, for what `huggingface` refuses, and for a body that is not
    quantized or not all of it to whole numbers times scales of rows or groups.
    """
    if importlib.util.find_spec("compressed_tensors") is None:
        raise UserError(f"compressed-tensors: not installed; run: {extra_command('compressed')}")
    loaded = plain(artifact, rounding=True)
    if out.exists():
        raise UserError(f"{out}: is there already; name another folder")
    made, prefix = loaded.model.as_transformers()
    absent = numbered(made, loaded.lexicon)
    layers = {prefix + name: layer for name, layer in layers_of(artifact).items()}
    compress(made, layers)
    from compressed_tensors.compressors import ModelCompressor

    with whole_folder(out) as folder, quiet():
        made.save_pretrained(folder)
        ModelCompressor.from_pretrained_model(made).update_config(str(folder))
        if all(layer.inputs is None for layer in layers.values()):
            _decode_at_once(folder / "config.json")
        beside(loaded, made, absent, folder, _PAGE)
    return out


def _decode_at_once(file: Path) -> None:
    """Have transformers decode packed weights while it reads them. Left to do that at the first run, it
    (5.23.0, with compressed-tensors 0.20.0) takes no packed zero points, for which it makes room as if they
    were not packed, and no ModernBERT, which looks for weights that are not there."""
    said = json.loads(file.read_text(encoding="utf-8"))
    said["quantization_config"]["dequantize"] = True
    file.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def layers_of(artifact: Path) -> dict[str, Layer]:
    """The quantized layers of an artifact's body by name, `body.` left out. Raises `UserError` where there
    are none, and for a layer that others cannot read as codes."""
    tensors, packing = read_tensors(artifact / WEIGHTS), read_files(artifact)[0]["packing"]
    found = {name.removeprefix(BODY).removesuffix(".weight"):
             _layer(f"{artifact}: {name}", entry, parts_of(tensors, name))
             for name, entry in packing.items() if name.startswith(BODY)}
    if not found:
        raise UserError(f"{artifact}: no layer of its body is quantized; `--to hf` writes floats")
    return found


def _layer(where: str, entry: Mapping[str, Any], parts: dict[str, Tensor]) -> Layer:
    """Raises `UserError`, beginning with `where`."""
    shape, inputs = tuple(entry["shape"]), None
    groups: IntegerGroups | None
    if "body" in entry:
        form = BODIES.build(PluginRef(**entry["body"]))
        label, groups = form.name, form.integer_groups(parts, shape)
        inputs = Rounding(form.params.activation_bits, True) if isinstance(form, Int8Dynamic) else None
    elif KEY in entry:
        chain = chain_of(PluginRef(**entry[KEY]), [PluginRef(**ref) for ref in entry["transforms"]])
        done = restored(entry, parts, shape)
        if done.maps:
            raise UserError(f"{where} reads inputs that are changed first ({', '.join(entry['maps'])}), "
                            "which no layer of other programs does; `--to hf` writes floats")
        label, groups = chain.rounding.name, chain.integer_groups(done.encoded, shape)
        inputs = None if entry["activation_bits"] == 16 else Rounding(entry["activation_bits"], False)
    else:
        if any(name.startswith("lora_") for name in parts):
            raise UserError(f"{where} has an adapter apart from its codes; `--to hf` writes floats, and both")
        quantizer = QUANTIZERS.build(PluginRef(**entry["quantizer"]))
        label, groups = quantizer.label, quantizer.integer_groups(parts, shape)
    if groups is None:
        raise UserError(f"{where}: {label} is not whole numbers times scales of rows or of groups within "
                        "them; `--to hf` writes floats")
    return Layer(groups, inputs)


@torch.no_grad()
def compress(made: Any, layers: Mapping[str, Layer]) -> None:
    """Let the named Linears of a transformers model hold codes, as the library has them. It finds them again
    from values and scales; in float32, where that is exact."""
    from compressed_tensors.compressors import compress_module
    from compressed_tensors.quantization import apply_quantization_config

    apply_quantization_config(made, _config(made, layers), show_progress=False)
    for name, layer in layers.items():
        module, dtype = made.get_submodule(name), made.dtype
        module.weight.data, module.weight_scale.data = layer.weight.values, layer.weight.scale
        if layer.weight.zero is not None:
            module.weight_zero_point.data = layer.weight.zero
        compress_module(module)
        module.weight_scale.data = layer.weight.scale.to(dtype)


def _config(made: nn.Module, layers: Mapping[str, Layer]) -> QuantizationConfig:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    named: dict[Scheme, list[str]] = defaultdict(list)
    for name, layer in layers.items():
        named[layer.scheme].append(name)
    groups = {}
    for number, (scheme, names) in enumerate(named.items()):
        strategy = "channel" if scheme.group is None else "group"
        inputs = scheme.inputs and QuantizationArgs(
            num_bits=scheme.inputs.bits, symmetric=scheme.inputs.symmetric, strategy="token", dynamic=True)
        groups[f"group_{number}"] = QuantizationScheme(
            # all of a class where that says it: names are as many as there are layers
            targets=["Linear"] if len(named) == 1 else names, input_activations=inputs,
            weights=QuantizationArgs(num_bits=scheme.bits, symmetric=scheme.symmetric, strategy=strategy,
                                     group_size=scheme.group))
    ignored = [name for name, module in made.named_modules()
               if isinstance(module, nn.Linear) and name not in layers]
    return QuantizationConfig(config_groups=groups, ignore=ignored)
