"""An exported model: a folder of packed codes, float tensors and JSON that runs with no Ray and no pickle.

    config.json        format version, the trial's settings, which tensor was packed by which quantizer
    lexicon.json       words by id; fields, values and how they are said (what control needs of the corpus)
    model.safetensors  `NAME::codes` (+ `NAME::scale`, ...) for packed weights, `NAME` for float32 tensors
    manifest.json      size and sha256 of each file

and, for people and other programs, what it does not need to run:

    tokenizer.json     the words as a Hugging Face tokenizer
    adapter/           the low-rank adapter in peft's format, where there is one (its effect is in model.safetensors)
    measurements.json, samples.json, MODEL_CARD.md  what was measured, a few sentences (by the exporter's caller)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from spaces.config import SITES, PluginRef, SamplingConfig, Site, TrialConfig
from spaces.errors import UserError
from trainable.control.conditions import symbols_of
from trainable.control.lexicon import Lexicon
from trainable.diffusion.process import Process
from trainable.diffusion.schedule import Schedule
from trainable.files import damage, whole_folder
from trainable.heap import give_back
from trainable.interchange import ADAPTER, TOKENIZER, tokenizer, write_adapter
from trainable.model.denoiser import DiffusionLM
from trainable.model.packed_table import Table, TableError, packed_table
from trainable.model.sites import plain_name, quantized_state, site_weights
from trainable.registry import BODIES, QUANTIZERS
from trainable.seeds import stream

FORMAT, READABLE = 2, (1, 2)
SPLIT = "::"
WEIGHTS, CONFIG, LEXICON, MEASUREMENTS = "model.safetensors", "config.json", "lexicon.json", "measurements.json"
SAMPLES = "samples.json"
TABLE = "word_embedding.weight"


@torch.no_grad()
def packed_tensors(model: DiffusionLM, body: PluginRef | None = None) -> tuple[dict[str, Tensor], dict[str, dict]]:
    """What goes to disk: tensors by name, and `{weight name: {quantizer or body, shape}}` for the packed ones.

    An adapter on a float weight is merged into it. On a packed weight it stays apart (`NAME::lora_a`, `NAME::lora_b`,
    scale folded into b), since merging would need the sum to be quantized again. `body` is the format that the merged
    weights of attention and ffn are then rounded to.
    """
    tensors: dict[str, Tensor] = {}
    packing: dict[str, dict] = {}
    quantized = quantized_state(model)
    for name, weight in quantized.items():
        plain = _plain(f"{name}.weight")
        packing[plain] = {"quantizer": {"name": weight.quantizer.name, **weight.quantizer.params.model_dump()},
                          "shape": list(weight.master.shape)}
        for part, value in weight.encode().items():
            tensors[plain + SPLIT + part] = value
    for name, value in model.state_dict().items():
        if "lora_" in name or ".parametrizations." in name:
            continue
        tensors[_plain(name)] = value.detach().float()
    for name, (a, b) in _adapters(model).items():
        if name in packing:
            tensors[name + SPLIT + "lora_a"], tensors[name + SPLIT + "lora_b"] = a, b
        else:
            tensors[name] = tensors[name] + b @ a
    if body is not None and body.name != "float32":
        form = BODIES.build(body)
        for name in site_names(model, "attention", "ffn"):
            weight = tensors.pop(name)
            packing[name] = {"body": {"name": form.name, **form.params.model_dump()}, "shape": list(weight.shape)}
            tensors |= {name + SPLIT + part: value for part, value in form.encode(weight).items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, packing


def _plain(name: str) -> str:
    """The weight's name in a model without adapters."""
    return name.replace(".base_layer", "")


def _adapters(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Low-rank factors by weight name: a [r, in] and b [out, r] with the scale alpha / r folded into b."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            found[f"{name}.weight"] = (a.float(), b.float() * module.scaling["default"])
    return found


def site_names(model: nn.Module, *sites: Site) -> list[str]:
    """Names in the artifact of every weight of some sites."""
    return [_plain(plain_name(name) + ".weight") for site in sites for name, _ in site_weights(model, site)]


def stored_facts(model: DiffusionLM, config: TrialConfig, lexicon: Lexicon, known: Mapping[str, Any]) -> dict[str, float]:
    """What `export` would write, counted: `packed_bytes` of all tensors, `file_bytes` of the weights' file with its header,
    `exported_bytes` of all that is needed to run, `bits_per_weight` over all deployed values, `bits_per_weight_SITE`
    over the weights of each site. `known` are the other facts; config.json holds them too, so the digits of those that
    still change are what `exported_bytes` can be off by.
    """
    tensors, packing = packed_tensors(model, config.quantization.body)
    total, values = _bytes_and_values(tensors, packing, None)
    facts: dict[str, float] = {"packed_bytes": total, "file_bytes": _file_bytes(tensors), "bits_per_weight": 8 * total / values}
    for site in SITES:
        stored, values = _bytes_and_values(tensors, packing, set(site_names(model, site)))
        facts[f"bits_per_weight_{site}"] = 8 * stored / values
    texts = _texts(config, lexicon, packing, {**known, **facts, "exported_bytes": facts["file_bytes"]})
    facts["exported_bytes"] = facts["file_bytes"] + sum(len(text.encode()) for text in texts.values())
    return facts


def _file_bytes(tensors: dict[str, Tensor]) -> int:
    """Bytes of the safetensors file of these tensors: the library's own header over empty ones, with the true shapes and
    offsets put in. Nothing is copied, so that it costs little at every rung of a large model."""
    empty = save({name: value.new_empty(0) for name, value in tensors.items()})
    header = json.loads(empty[8:8 + int.from_bytes(empty[:8], "little")])
    end = 0
    for name, entry in header.items():
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        entry.update(shape=list(tensors[name].shape), data_offsets=[begin, end])
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def _texts(config: TrialConfig, lexicon: Lexicon, packing: dict[str, dict], facts: Mapping[str, Any]) -> dict[str, str]:
    """The files that a model needs beside its weights."""
    head = {"format": FORMAT, "config": config.model_dump(mode="json"), "packing": packing, "facts": facts}
    return {CONFIG: json.dumps(head, indent=1), LEXICON: json.dumps(lexicon.to_json(), ensure_ascii=False)}


def _bytes_and_values(tensors: dict[str, Tensor], packing: dict[str, dict], names: set[str] | None) -> tuple[int, int]:
    """Stored bytes, and values of the float model that they stand for, of the named weights (None = all tensors)."""
    chosen = {key: value for key, value in tensors.items() if names is None or key.partition(SPLIT)[0] in names}
    plain = sum(value.numel() for key, value in chosen.items() if SPLIT not in key)
    packed = sum(math.prod(entry["shape"]) for name, entry in packing.items() if names is None or name in names)
    return sum(value.numel() * value.element_size() for value in chosen.values()), plain + packed


def export(model: DiffusionLM, config: TrialConfig, lexicon: Lexicon, out: Path, facts: dict) -> Path:
    """Write the artifact folder `out` (whole or not at all). `facts` is JSON-able and tells how the model was made."""
    tensors, packing = packed_tensors(model, config.quantization.body)
    with whole_folder(out) as folder:
        save_file(tensors, folder / WEIGHTS)
        for name, text in _texts(config, lexicon, packing, facts).items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / TOKENIZER).write_text(tokenizer(lexicon.vocab).to_str())
        write_adapter(model, config.lora, folder / ADAPTER)
    return out


@dataclass
class Loaded:
    """An artifact ready to run: a plain model whose weights are the decoded codes."""

    path: Path
    config: TrialConfig
    lexicon: Lexicon
    model: DiffusionLM
    schedule: Schedule
    facts: dict

    def words(self, ids: Tensor) -> list[list[str]]:
        """[n, L] ids -> the words of each sentence, marks left out."""
        return [self.lexicon.decode(row) for row in ids.tolist()]

    def process(self, sampling: SamplingConfig | None = None) -> Process:
        """The sampler over this model, by the artifact's own settings unless others are given."""
        return Process(self.model, self.schedule, sampling or self.config.sampling)

    def generate(self, n: int, generator: torch.Generator, steps: int | None = None, guide=None) -> Tensor:
        """`n` sentences: ids [n, max_length]."""
        sampling = self.config.sampling
        if steps is not None:
            sampling = sampling.model_copy(update={"steps": steps})
        return self.process(sampling).sample(n, self.config.corpus.max_length, generator, guide)


def load(path: Path | str, device: torch.device | str = "cpu", run_codes: bool = True, table: Table = "auto") -> Loaded:
    """Open an artifact folder. Raises `UserError` naming what is missing, damaged, or of another format version.

    With `run_codes` a body that was exported as codes computes with them; without, it is decoded to float32, and so is
    the table. `table: packed` keeps the word table as codes (`trainable.model.packed_table`), `decoded` as floats; `auto`
    keeps it packed where that is faster: an integer format, rows of `PACKED_FROM` values and a model that does not
    average rows at every step (`mse`).
    """
    path, device = Path(path), torch.device(device)
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} is not an artifact: no {CONFIG} in it")
    wrong = damage(path)
    if wrong:
        raise UserError(f"damaged artifact: {wrong}")
    head, config, lexicon, tensors = _read(path)
    try:
        model = assembled(config, lexicon, tensors, head["packing"], device, run_codes, table)
    except TableError as error:
        raise UserError(f"{path}: {error}") from None
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path / WEIGHTS} does not fit its {CONFIG}: {reason}") from None
    schedule = Schedule.make(config.diffusion.schedule, config.diffusion.timesteps)
    del tensors
    give_back()
    return Loaded(path, config, lexicon, model.requires_grad_(False), schedule, head["facts"])


def _read(path: Path) -> tuple[dict, TrialConfig, Lexicon, dict[str, Tensor]]:
    """The files of an artifact, each checked for itself. Raises `UserError`."""
    try:
        head = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(head, dict):
            raise ValueError(f"{CONFIG} is not a JSON object")
        if head.get("format") not in READABLE:
            known = " and ".join(map(str, READABLE))
            raise UserError(f"{path / CONFIG}: format {head.get('format')!r}, this version reads formats {known}")
        if not isinstance(head["facts"], dict) or not isinstance(head["packing"], dict):
            raise ValueError(f"facts and packing in {CONFIG} are not JSON objects")
        config = TrialConfig.model_validate(head["config"])
        lexicon = Lexicon.from_json(json.loads((path / LEXICON).read_text(encoding="utf-8")))
        return head, config, lexicon, read_tensors(path / WEIGHTS)
    except (ValidationError, SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError,
            RecursionError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {(str(error).splitlines() or ['?'])[0]}") from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, in memory of its own.

    The file is mapped anew for each: in one mapping all that was read would stay resident until the last tensor goes,
    beside what kernels make of it.
    """
    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
    found = {}
    for name in names:
        with safe_open(file, "pt") as opened:
            found[name] = opened.get_tensor(name).clone()
    return found


def plain_model(config: TrialConfig, lexicon: Lexicon) -> DiffusionLM:
    """A model of the configured shape without adapters or quantizers, its weights about to be overwritten."""
    model_config = config.model.model_copy(update={"embeddings": "learned"})
    return DiffusionLM(model_config, config.diffusion, lexicon.vocab, symbols=symbols_of(config.model.conditions, lexicon))


@torch.no_grad()
def assembled(config: TrialConfig, lexicon: Lexicon, tensors: dict[str, Tensor], packing: dict[str, dict],
              device: torch.device, run_codes: bool = True, table: Table = "decoded") -> DiffusionLM:
    """The exported model, in eval mode on `device`, from what `packed_tensors` gave.

    Weights are assigned, never copied over random ones, and packed ones are taken out of `tensors` as they are used: a
    large model is built without its float size, or twice its packed size, in memory.
    Raises ValueError, KeyError or RuntimeError where tensors, packing and the model's shape do not fit each other.
    """
    with torch.device("meta"):
        model = plain_model(config, lexicon)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    _check_shapes(tensors, packing, shapes)
    running, packed = {}, None
    if run_codes:
        packed = packed_table(table, packing.get(TABLE, {}), parts_of(tensors, TABLE), config.diffusion.loss, device)
        for name, entry in packing.items():
            if "body" in entry and (form := BODIES.build(PluginRef(**entry["body"]))).runs(shapes[name], device):
                running[name] = form
    done = running.keys() | ({TABLE} if packed else set())
    state = decoded({key: value for key, value in tensors.items() if key.partition(SPLIT)[0] not in done},
                    {name: entry for name, entry in packing.items() if name not in done})
    state = {name: value.to(device) for name, value in state.items()}
    for name, form in running.items():
        module = name.removesuffix(".weight")
        parts = {part: tensors.pop(name + SPLIT + part).to(device) for part in parts_of(tensors, name)}
        model.set_submodule(module, form.linear(form.checked(parts, shapes[name]), shapes[name], state.pop(module + ".bias")))
        state |= {f"{module}.{key}": value for key, value in model.get_submodule(module).state_dict().items()}
    if packed:
        model.word_embedding = packed
        state |= {f"word_embedding.{key}": value for key, value in packed.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _check_shapes(tensors: dict[str, Tensor], packing: dict[str, dict], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless every tensor belongs to a weight of the model and has its shape and float32."""
    for name, entry in packing.items():
        if name not in shapes or tuple(entry["shape"]) != shapes[name] or len(shapes[name]) != 2:
            raise ValueError(f"packing of {name}: shape {entry.get('shape')}, the model has {shapes.get(name)}")
    for key, value in tensors.items():
        name, _, part = key.partition(SPLIT)
        if part and name not in packing or not part and name in packing:
            raise ValueError(f"tensor {key} does not agree with packing")
        if not part and (shapes.get(name) != tuple(value.shape) or value.dtype != torch.float32):
            raise ValueError(f"tensor {key}: {value.dtype} {tuple(value.shape)}, the model has {shapes.get(name)}")


def parts_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The packed arrays of one weight by their own names."""
    return {key.removeprefix(name + SPLIT): value for key, value in tensors.items() if key.startswith(name + SPLIT)}


def decoded(tensors: dict[str, Tensor], packing: dict[str, dict]) -> dict[str, Tensor]:
    """Float state of a plain model from an artifact's tensors. Raises ValueError or KeyError where they do not fit."""
    state = {name: value for name, value in tensors.items() if SPLIT not in name}
    for name, entry in packing.items():
        parts, shape = parts_of(tensors, name), tuple(entry["shape"])
        if "body" in entry:
            state[name] = BODIES.build(PluginRef(**entry["body"])).decode(parts, shape)
            continue
        weight = QUANTIZERS.build(PluginRef(**entry["quantizer"])).decode(parts, shape)
        if "lora_a" in parts:
            weight = weight + parts["lora_b"] @ parts["lora_a"]
        state[name] = weight
    return state


def seeded(path: Path, seed: int) -> torch.Generator:
    """The generator that `qdlm generate` draws from."""
    return stream("generate", path.name, seed)
