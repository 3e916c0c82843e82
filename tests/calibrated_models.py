"""Small models of both processes and their calibrations, for tests of what calibration does."""

from __future__ import annotations

import copy
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch

from spaces.config import CalibrationConfig, TrialConfig
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.process import Gaussian
from trainable.diffusion.masked.config import MaskedConfig
from trainable.diffusion.masked.process import Masked
from trainable.diffusion.states import States
from trainable.models.backbone import Backbone
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.masked_lm.backbone import MaskedLM
from trainable.models.masked_lm.config import MaskedLMConfig
from trainable.stages.calibrate import calibrate, calibration_states

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(16))]
LENGTH = 10
GPTQ = {"method": {"name": "gptq", "bits": 3}, "texts": 40, "levels": 4}
LAYERS = 2
PROCESSES = ("gaussian", "bert", "llama", "modernbert")
IA_AQ, SOFTMAX = {"name": "ia_aq", "bits": 4}, {"name": "softmax_bias", "bits": 4}
TAC = {"name": "tac", "block": 8}
ALL = {**GPTQ, "activation_bits": 4, "intervals": 2,
       "corrections": [TAC, {"name": "interval_scales", "sides": "both"}, IA_AQ, SOFTMAX, "state_clip"]}


def corpus(train: int = 64) -> SimpleNamespace:
    """Text whose splits share no row."""
    draws = np.random.default_rng(0)
    splits = {"train": 4 + 2 * draws.integers(0, 8, (train, LENGTH)),
              "valid": 5 + 2 * draws.integers(0, 8, (32, LENGTH))}
    return SimpleNamespace(ids=lambda split: splits[split].astype(np.int32))


def config(kind: str, calibration: dict) -> TrialConfig:
    small = {"hidden": 16, "layers": LAYERS, "heads": 2, "ffn": 32, "positions": 16}
    if kind == "gaussian":
        return TrialConfig.model_validate({
            "corpus": {"max_length": LENGTH}, "calibration": calibration, "sampling": {"steps": 6},
            "model": {**small, "embedding_dim": 8, "time_dim": 8, "dropout": 0.0, "self_conditioning": True},
            "diffusion": {"name": "gaussian", "timesteps": 50, "loss": "ce"}})
    return TrialConfig.model_validate({
        "corpus": {"max_length": LENGTH}, "calibration": calibration,
        "sampling": {"steps": 6, "sampler": "quota"}, "diffusion": {"name": "masked"},
        "model": {"name": "masked_lm", **small, "body": kind, "transform": False}})


@cache
def built(kind: str) -> tuple[Backbone, Gaussian | Masked]:
    """A model whose attention is not flat, and its process."""
    settings = config(kind, GPTQ)
    own = {name: value for name, value in settings.model.params.items()}
    if kind == "gaussian":
        process = Gaussian(GaussianConfig(timesteps=50, loss="ce"))
        made = DiffusionLM(DiffusionLMConfig(**own), process.params, WORDS, seed=3)
    else:
        process = Masked(MaskedConfig())
        made = MaskedLM(MaskedLMConfig(**own), len(WORDS), seed=1)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.startswith("body") and value.ndim == 2:
                value.mul_(2.0)
            elif name.startswith("body") and name.endswith("bias"):
                value.copy_(torch.linspace(-0.3, 0.3, len(value)))
    return made.eval().requires_grad_(False), process


def model(kind: str) -> Backbone:
    return copy.deepcopy(built(kind)[0])


@cache
def states(kind: str, source: str = "corrupted") -> States:
    settings = config(kind, {**GPTQ, "source": source})
    return calibration_states(model(kind), built(kind)[1], corpus(), settings)


def calibrated(kind: str, calibration: dict, **more):
    net = model(kind)
    return net, calibrate(net, states(kind), CalibrationConfig.model_validate(calibration), **more)


@cache
def everything(kind: str):
    """All corrections at once; to be looked at, not changed."""
    return calibrated(kind, ALL)


def log_probs(net: Backbone, kind: str) -> torch.Tensor:
    shown = states(kind)
    return net.predict(shown.state, shown.t, shown.previous).log_probs


@cache
def plain_run(kind: str, bits: int = 16):
    """Without any correction."""
    return calibrated(kind, {**GPTQ, "activation_bits": bits})[1]


def plain(kind: str, bits: int = 16) -> dict[str, torch.Tensor]:
    """Its codes."""
    return {name: stored.arrays["codes"] for name, stored in plain_run(kind, bits).weights.items()}


def outputs(names) -> list[str]:
    """Of the attention."""
    return [name for name in names if any(part in name for part in ("attention.output", "Wo.", "o_proj"))
            and "mlp" not in name]


# ---- all together: what is measured is what the files give ----
