"""Small artifacts of every architecture, for tests of what other programs make of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import checkpoints
import torch

from spaces.config import CalibrationConfig, TrialConfig
from trainable.adapters.intervals import by_interval
from trainable.artifacts.artifact import export
from trainable.artifacts.packed import Packed
from trainable.artifacts.packing import site_names
from trainable.control.lexicon import Lexicon
from trainable.corpora.tokens import Tokens
from trainable.models.backbone import Backbone
from trainable.models.lora import add_lora
from trainable.quantization import sites
from trainable.quantization.post_training.quantize import quantize
from trainable.quantization.post_training.stored import chain_of, stored
from trainable.registry import BACKBONES, PROCESSES, completed
from trainable.training.transfer import adopted

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(16))]
SHAPE = {"hidden": 32, "layers": 1, "heads": 2, "ffn": 32, "positions": 16}
GAUSSIAN = {"model": {"name": "diffusion_lm", "embedding_dim": 8, "time_dim": 8, **SHAPE},
            "diffusion": {"name": "gaussian", "timesteps": 20}}
MODELS = {
    "gaussian": GAUSSIAN,
    "gaussian_told": {**GAUSSIAN, "model": {**GAUSSIAN["model"], "self_conditioning": True,
                                            "normalize_embeddings": True, "projection_depth": 1}},
    **{body: {"model": {"name": "masked_lm", "body": body, "transform": True, **SHAPE},
              "diffusion": {"name": "masked"}} for body in ("bert", "modernbert", "llama")},
}
BODIES = {"float": {}, "int8": {"body": "int8_dynamic"}, "trained": {"quantizer": "uniform:4", "sites": [
    "embedding", "attention", "ffn"]}}


def exported(folder: Path, name: str, quantization: dict, lexicon: Lexicon | None = None, **lora) -> Path:
    """An artifact whose adapter has an effect."""
    lexicon = lexicon or Lexicon(WORDS, 12, {}, "words")
    model, config = adapted(name, quantization, lexicon, **lora)
    return export(model, config, lexicon, folder / "trial-0001", {})


def adapted(name: str, quantization: dict, lexicon: Lexicon, **lora) -> tuple[Backbone, TrialConfig]:
    """A model whose adapter has an effect, in eval mode."""
    config = completed(TrialConfig.model_validate({
        **MODELS[name], "corpus": {"max_length": 12}, "quantization": quantization,
        "lora": {"rank": 2, "targets": ["query", "output"], **lora}}))
    model = BACKBONES.get(config.model.name).from_config(BACKBONES.params(config.model),
                                                         PROCESSES.params(config.diffusion),
                                                         lexicon.vocab).eval()
    sites.apply(model, config.quantization)
    add_lora(model, config.lora)
    by_interval(model, config.lora)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if "lora_B" in parameter:
                value.normal_(generator=generator)
    return model, config


def from_checkpoint(name: str, folder: Path, method: dict | None = None, **calibration) -> Path:
    """An artifact in `folder`/trial-0001 of the checkpoint in `folder`/checkpoint, its weights a bit apart
    from those, and its body rounded by a method of calibration that needs no statistics."""
    start = str(folder / "checkpoint")
    tokens = Tokens.open(start)
    vocab = ["START", "END", "UNK", "PAD", *tokens.spellings()]
    lexicon = Lexicon(vocab, 16, {}, "words", {}, tokens.to_json())
    config = TrialConfig.model_validate({
        "corpus": {"max_length": 16, "tokenizer": start}, "model": checkpoints.shape(name),
        "diffusion": {"name": "masked"}, "base": {"path": start}})
    model, _ = adopted(config, SimpleNamespace(tokens=tokens, vocab=vocab), lexicon)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if parameter != "bias" or name in ("bert", "modernbert"):
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
    packed = Packed.pack(model, config, lexicon)
    if method is not None:
        asked = CalibrationConfig.model_validate({"method": method, **calibration})
        chain = chain_of(asked.method, asked.transforms)
        packed = packed.rounded({each: stored(asked, quantize(chain, packed.tensors[each]))
                                 for each in site_names(model, "attention", "ffn")})
    return packed.write(folder / "trial-0001", {})
