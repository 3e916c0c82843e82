"""An exported model: a folder of packed codes, float tensors and JSON that runs with no Ray and no pickle.

    config.json        format version, the trial's settings, which tensor was packed by which quantizer
    lexicon.json       words by id; fields, values and how they are said (what control needs of the corpus)
    model.safetensors  `NAME::codes` (+ `NAME::scale`) for packed weights, `NAME` for float32 tensors
    measurements.json  what was measured (written by the exporter's caller)
    manifest.json      size and sha256 of each file
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces.config import PluginRef, SamplingConfig, TrialConfig
from spaces.errors import UserError
from trainable.control.lexicon import Lexicon
from trainable.diffusion.process import Process
from trainable.diffusion.schedule import Schedule
from trainable.files import damage, whole_folder
from trainable.model.denoiser import DiffusionLM
from trainable.model.sites import quantized_state
from trainable.registry import QUANTIZERS
from trainable.seeds import stream

FORMAT = 1
SPLIT = "::"
WEIGHTS, CONFIG, LEXICON, MEASUREMENTS = "model.safetensors", "config.json", "lexicon.json", "measurements.json"


@torch.no_grad()
def packed_tensors(model: DiffusionLM) -> tuple[dict[str, Tensor], dict[str, dict]]:
    """What goes to disk: tensors by name, and `{weight name: {quantizer, shape}}` for the packed ones.

    An adapter on a float weight is merged into it. On a packed weight it stays apart (`NAME::lora_a`, `NAME::lora_b`,
    scale folded into b), since merging would need the sum to be quantized again.
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


def stored_bytes(model: DiffusionLM) -> int:
    """Bytes of all tensors that `export` would write (the file adds its header)."""
    return sum(value.numel() * value.element_size() for value in packed_tensors(model)[0].values())


def export(model: DiffusionLM, config: TrialConfig, lexicon: Lexicon, out: Path, facts: dict) -> Path:
    """Write the artifact folder `out` (whole or not at all). `facts` is JSON-able and tells how the model was made."""
    tensors, packing = packed_tensors(model)
    with whole_folder(out) as folder:
        save_file(tensors, folder / WEIGHTS)
        (folder / LEXICON).write_text(json.dumps(lexicon.to_json(), ensure_ascii=False))
        head = {"format": FORMAT, "config": config.model_dump(mode="json"), "packing": packing, "facts": facts}
        (folder / CONFIG).write_text(json.dumps(head, indent=1))
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


def load(path: Path | str, device: torch.device | str = "cpu") -> Loaded:
    """Open an artifact folder. Raises `UserError` naming what is missing, damaged, or of another format version."""
    path = Path(path)
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} is not an artifact: no {CONFIG} in it")
    wrong = damage(path)
    if wrong:
        raise UserError(f"damaged artifact: {wrong}")
    head = json.loads((path / CONFIG).read_text())
    if head.get("format") != FORMAT:
        raise UserError(f"{path / CONFIG}: format {head.get('format')!r}, this version reads format {FORMAT}")
    try:
        config = TrialConfig.model_validate(head["config"])
        tensors = load_file(path / WEIGHTS)
        lexicon = Lexicon.from_json(json.loads((path / LEXICON).read_text()))
    except (ValidationError, SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {str(error).splitlines()[0]}") from None
    model = plain_model(config, lexicon.vocab)
    try:
        model.load_state_dict(decoded(tensors, head["packing"]))
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path / WEIGHTS} does not fit its {CONFIG}: {str(error).splitlines()[0]}") from None
    model = model.to(device).eval().requires_grad_(False)
    schedule = Schedule.make(config.diffusion.schedule, config.diffusion.timesteps)
    return Loaded(path, config, lexicon, model, schedule, head["facts"])


def plain_model(config: TrialConfig, vocabulary: list[str]) -> DiffusionLM:
    """A model of the configured shape without adapters or quantizers, its weights about to be overwritten."""
    model_config = config.model.model_copy(update={"embeddings": "learned"})
    return DiffusionLM(model_config, config.diffusion, vocabulary)


def decoded(tensors: dict[str, Tensor], packing: dict[str, dict]) -> dict[str, Tensor]:
    """Float state of a plain model from an artifact's tensors. Raises ValueError or KeyError where they do not fit."""
    state = {name: value for name, value in tensors.items() if SPLIT not in name}
    for name, entry in packing.items():
        parts = {key.removeprefix(name + SPLIT): value for key, value in tensors.items() if key.startswith(name + SPLIT)}
        quantizer = QUANTIZERS.build(PluginRef(**entry["quantizer"]))
        weight = quantizer.decode(parts, tuple(entry["shape"]))
        if "lora_a" in parts:
            weight = weight + parts["lora_b"] @ parts["lora_a"]
        state[name] = weight
    return state


def seeded(path: Path, seed: int) -> torch.Generator:
    """The generator that `qdlm generate` draws from."""
    return stream("generate", path.name, seed)
