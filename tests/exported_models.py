"""Small artifacts of every architecture, for tests of what other programs make of them."""

from __future__ import annotations

from pathlib import Path

import torch

from spaces.config import TrialConfig
from trainable.artifacts.artifact import export
from trainable.control.lexicon import Lexicon
from trainable.models.lora import add_lora
from trainable.quantization import sites
from trainable.registry import BACKBONES, PROCESSES, completed

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


def exported(folder: Path, name: str, quantization: dict, lexicon: Lexicon | None = None) -> Path:
    """An artifact whose adapter has an effect."""
    lexicon = lexicon or Lexicon(WORDS, 12, {}, "words")
    config = completed(TrialConfig.model_validate({
        **MODELS[name], "corpus": {"max_length": 12}, "lora": {"rank": 2, "targets": ["query", "output"]},
        "quantization": quantization}))
    model = BACKBONES.get(config.model.name).from_config(BACKBONES.params(config.model),
                                                         PROCESSES.params(config.diffusion),
                                                         lexicon.vocab).eval()
    sites.apply(model, config.quantization)
    add_lora(model, config.lora)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if "lora_B" in parameter:
                value.normal_(generator=generator)
    return export(model, config, lexicon, folder / "trial-0001", {})
