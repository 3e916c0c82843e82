"""The files of an artifact, read as what may have been made by anybody: bounded, typed, and complete.

What a file claims is checked before memory is spent on it. JSON has a size limit; the weights' header is read
once and has to fit the model that the config describes before any weight is read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from spaces.config import LoraConfig, PluginRef, TrialConfig
from trainable.artifacts.packing import SPLIT
from trainable.quantization.post_training.stored import KEY, layout_of
from trainable.registry import BACKBONES, BODIES, PROCESSES, QUANTIZERS
from trainable.storage.mapped import DTYPES

MOST_JSON, MOST_MEMORY = 32 << 20, 100 << 20
"""Bytes of a JSON file that is read, and that its values may take (`_memory`): a million words are 20 MB
and 57 MB, and the 270,000 words of WikiText-103 with the tags of each 90 MB."""
MOST_CONFIG, MOST_SETTINGS = 4 << 20, 8 << 20
"""The same of config.json, which holds some ten values for each packed weight. Settings that are wrong take
ten times that, as each is complained of."""
MOST_HEADER = 4 << 20
"""Bytes of a weights' header that is parsed, some 40,000 tensors: parsed, it is ten times as large."""
REMAP = 16 << 20
"""Bytes of tensors that are read from one mapping of the file: what was read stays resident until it goes."""
MOST_INTERVALS = 16
"""Of the noise level, each with an adapter of its own: as many as a trial may have."""
MOST_WORDS = 1_000_000
"""Words of a vocabulary: four times the largest of subwords."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Form:
    """Type and shape of a tensor that is not read yet."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def read_json(file: Path, most: int = MOST_JSON, memory: int = MOST_MEMORY) -> Any:
    """The content of a JSON file of at most `most` bytes, whose values take at most `memory`. Raises
    ValueError, OSError or RecursionError."""
    if file.stat().st_size > most:
        raise ValueError(f"{file.name} has {file.stat().st_size:,} bytes; at most {most:,} are read")
    content = file.read_bytes()
    # what stands inside of strings, such as a tokenizer's own JSON, is looked at only where it decides
    if _memory(content) > memory and _memory(_STRING.sub(b"", content)) > memory:
        raise ValueError(f"{file.name} holds more values than the {memory >> 20} MB that are read")
    return json.loads(content.decode("utf-8"))


def _memory(content: bytes) -> int:
    """Bytes that the values of a JSON text may take: an empty list of three bytes takes 72 with its place, an
    object of one key 200, a short word 60."""
    return 200 * content.count(b"{") + 72 * content.count(b"[") + 60 * content.count(b",")


def forms(file: Path) -> dict[str, Form]:
    """What a safetensors file holds, from its header alone, in the order of the file."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
    if MOST_HEADER < size <= file.stat().st_size:
        raise ValueError(f"its header has {size:,} bytes; at most {MOST_HEADER:,} are read")
    with safe_open(file, "pt") as opened:
        found = {}
        for name in opened.offset_keys():
            view = opened.get_slice(name)
            kind = DTYPES.get(view.get_dtype())
            if kind is None:
                raise ValueError(f"tensor {name} is of type {view.get_dtype()}, which no artifact holds")
            found[name] = Form(kind, tuple(view.get_shape()))
        return found


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, in memory of its own. Raises ValueError for NaN and infinity.

    The header is parsed once for each `REMAP` bytes, not once for each tensor; a larger tensor is read part
    by part. In one mapping all that was read would stay resident beside the tensors themselves.
    """
    left = [(name, math.prod(form.shape) * form.dtype.itemsize) for name, form in forms(file).items()]
    found: dict[str, Tensor] = {}
    while left:
        taken = 0
        with safe_open(file, "pt") as opened:
            while left and taken < REMAP:
                name, size = left.pop()
                taken += size
                value = opened.get_tensor(name).clone() if size <= REMAP else _by_parts(file, name, size)
                found[name] = finite(name, value)
    return dict(reversed(found.items()))


def _by_parts(file: Path, name: str, size: int) -> Tensor:
    """A tensor of so many bytes, its rows read through mappings of about `REMAP` bytes each."""
    made: Tensor | None = None
    start, count = 0, 1
    while start < count:
        with safe_open(file, "pt") as opened:
            part = opened.get_slice(name)
            count = part.get_shape()[0]
            rows = max(1, count * REMAP // size)
            read = part[start:start + rows]
            if made is None:
                made = torch.empty(part.get_shape(), dtype=read.dtype)
            made[start:start + rows] = read
        start += rows
    assert made is not None
    return made


def finite(name: str, value: Tensor) -> Tensor:
    """The tensor, or ValueError where it holds NaN or infinity: such a model says nothing."""
    if value.is_floating_point():
        values = value.float() if value.dtype.itemsize == 1 else value
        if value.numel() and not torch.isfinite(values.sum()) and not bool(torch.isfinite(values).all()):
            raise ValueError(f"tensor {name} holds NaN or infinity")
    return value


def check_config(config: TrialConfig, vocabulary: int, positions: int, tensors: int) -> None:
    """Raises ValueError where settings contradict each other, the lexicon or the file, before a model of them
    is built. `positions`: of the lexicon; `tensors`: how many the file holds."""
    for ref, registry in ((config.model, BACKBONES), (config.diffusion, PROCESSES)):
        params = registry.params(ref)
        for rule in params.rules:
            if not rule.setting.startswith(("corpus.", "diffusion.")):
                continue  # changes nothing of what is built
            value: Any = config
            for part in rule.setting.split("."):
                value = getattr(value, part)
            if problem := rule.problem(value, params):
                raise ValueError(problem)
        layers, rows = getattr(params, "layers", 1), getattr(params, "positions", positions)
        if layers > tensors:
            raise ValueError(f"{layers:,} layers, and {tensors:,} tensors in the file")
        if positions > rows:
            raise ValueError(f"max_length {positions:,} of the lexicon, and model.positions={rows:,}")
    if vocabulary > MOST_WORDS:
        raise ValueError(f"{vocabulary:,} words; at most {MOST_WORDS:,}")


def check_packing(packing: Mapping[str, Any]) -> None:
    """Raises ValueError unless each entry is a mapping with a shape of two positive whole numbers."""
    for name, entry in packing.items():
        shape = entry.get("shape") if isinstance(entry, Mapping) else None
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"packing of {name}: shape {str(shape)[:60]}, expected two positive numbers")


def check_fit(found: Mapping[str, Form | Tensor], packing: Mapping[str, dict[str, Any]],
              shapes: Mapping[str, tuple[int, ...]], lora: LoraConfig) -> None:
    """Raises ValueError unless every tensor belongs to a weight of the model and has its shape or, of
    a packed weight, is one of the arrays that its format writes, with its size; plain tensors are all of one
    floating type. `lora`: the adapter's settings."""
    for name, entry in packing.items():
        if name not in shapes or tuple(entry["shape"]) != shapes[name] or len(shapes[name]) != 2:
            raise ValueError(f"packing of {name}: shape {entry.get('shape')}, "
                             f"the model has {shapes.get(name)}")
    types = {form.dtype for key, form in found.items() if SPLIT not in key}
    if len(types) > 1:
        raise ValueError(f"tensors of {' and '.join(sorted(map(str, types)))}: all should have one type")
    parts = {name: expected_parts(entry, shapes[name], lora) for name, entry in packing.items()}
    adapters: dict[str, set[str]] = {}
    for key, form in found.items():
        name, _, part = key.partition(SPLIT)
        if part and name not in packing or not part and name in packing:
            raise ValueError(f"tensor {key} does not agree with packing")
        if not part and (shapes.get(name) != tuple(form.shape) or not form.dtype.is_floating_point):
            raise ValueError(f"tensor {key}: {form.dtype} {tuple(form.shape)}, "
                             f"the model has {shapes.get(name)}")
        if part:
            label, known = parts[name]
            if part not in known:
                raise ValueError(f"tensor {key}: expected codes of {label}, which are "
                                 f"{', '.join(sorted(known))}")
            count = math.prod(form.shape)
            if count != known[part]:
                raise ValueError(f"{name}: {label} {part}, shape {shapes[name]}: expected {known[part]} "
                                 f"elements, found {count}")
            if part.startswith("lora_"):
                adapters.setdefault(name, set()).add(part)
    for name, own in adapters.items():
        if missing := {part for part in parts[name][1] if part.startswith("lora_")} - own:
            raise ValueError(f"{name}: an adapter without {', '.join(sorted(missing))}")
    for name, entry in packing.items():
        if intervals_of(entry) > 1 and name not in adapters:
            raise ValueError(f"{name}: intervals of an adapter, and no adapter")


def intervals_of(entry: Mapping[str, Any]) -> int:
    """Intervals of the noise level of which each has an adapter on a packed weight. Raises ValueError."""
    count = entry.get("intervals", 1)
    if type(count) is not int or not 1 <= count <= MOST_INTERVALS:
        raise ValueError(f"intervals {str(count)[:20]!r}, expected a whole number of 1 to {MOST_INTERVALS}")
    return count


def expected_parts(entry: Mapping[str, Any], shape: Sequence[int],
                   lora: LoraConfig) -> tuple[str, dict[str, int]]:
    """The format of a packed weight [out, in], and the elements of each array that it writes.
    Raises KeyError, ValueError or `UserError` for an entry that is none."""
    out, into = shape
    if "body" in entry:
        form = BODIES.build(PluginRef(**entry["body"]))
        return form.name, {name: part.count for name, part in form.layout((out, into)).items()}
    if KEY in entry:
        return entry[KEY]["name"], layout_of(entry, (out, into))
    quantizer = QUANTIZERS.build(PluginRef(**entry["quantizer"]))
    parts = {name: part.count for name, part in quantizer.layout((out, into)).items()}
    if lora.rank:
        rows = lora.rank * intervals_of(entry)
        parts |= {"lora_a": rows * into, "lora_b": out * rows}
        parts |= {"lora_m": out} if lora.variant == "dora" else {}
    return quantizer.label, parts

