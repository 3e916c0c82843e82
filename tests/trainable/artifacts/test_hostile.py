"""Artifacts that lie, each kind of `benchmarks.faults_artifacts`: one line, or a model that is unharmed."""

import json

import pytest
import torch

from benchmarks import faults_artifacts
from benchmarks.faults_artifacts import KINDS, hostile
from spaces.config import LoraConfig, QuantizationConfig, TrialConfig
from spaces.errors import UserError
from trainable.artifacts import reading
from trainable.artifacts.artifact import export, load
from trainable.control.lexicon import Lexicon
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.diffusion.gaussian.schedule import Schedule
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.masked_lm.bodies import make_body
from trainable.models.masked_lm.config import MaskedLMConfig
from trainable.quantization import sites
from trainable.registry import BACKBONES, PROCESSES

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(36))]
CONFIG = TrialConfig(model=DiffusionLMConfig(embedding_dim=8, hidden=16, layers=1, heads=2, ffn=16,
                                             time_dim=8, dropout=0.0),
                     diffusion=GaussianConfig(timesteps=20), lora=LoraConfig(rank=0),
                     quantization=QuantizationConfig(quantizer="uniform:4"))
HARMLESS = {"vocab of others", "any setting", "any packing", "any of the lexicon", "config bytes",
            "lexicon bytes", "long word",
            "manifest odd", "manifest bytes", "weights bytes"}
"""Changes that may hit what no run needs."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    model = DiffusionLM(BACKBONES.params(CONFIG.model), PROCESSES.params(CONFIG.diffusion), WORDS).eval()
    sites.apply(model, CONFIG.quantization)
    lexicon = Lexicon(WORDS, 64, {"food": {"Thai": [["w1", "w2"]]}}, "words", {"w1": {"NOUN": 1.0}})
    return export(model, CONFIG, lexicon, tmp_path_factory.mktemp("artifact") / "trial-0001", {"a": 1})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(60)
def test_an_artifact_that_lies_gives_one_line(plain, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(faults_artifacts, "MANY", 3000)
    for seed in range(6 if kind in HARMLESS else 2):
        folder = hostile(plain, kind, seed, tmp_path / "copy")
        try:
            load(folder)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 800
        else:
            assert kind in HARMLESS, f"{kind} was not noticed"


def test_tensors_are_read_with_few_readings_of_the_header(plain, monkeypatch):
    opened = []
    original = reading.safe_open
    monkeypatch.setattr(reading, "safe_open", lambda *given: opened.append(1) or original(*given))
    load(plain)
    assert len(opened) <= 3, "the header is parsed for the whole file, not for each tensor"
    opened.clear()
    monkeypatch.setattr(reading, "REMAP", 1)
    first = reading.read_tensors(plain / "model.safetensors")
    monkeypatch.setattr(reading, "REMAP", 1 << 30)
    second = reading.read_tensors(plain / "model.safetensors")
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_an_infinity_that_decoding_makes_is_refused(plain, tmp_path):
    from safetensors.torch import load_file, save_file

    from trainable.storage.folders import write_manifest

    folder = hostile(plain, "manifest list", 0, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    scale = next(name for name in tensors if name.endswith("::scale"))
    tensors[scale] = torch.full_like(tensors[scale], torch.finfo(tensors[scale].dtype).max)
    save_file(tensors, folder / "model.safetensors")
    write_manifest(folder)
    with pytest.raises(UserError):
        load(folder)


@pytest.mark.parametrize("name", ["sqrt", "cosine"])
def test_noise_grows_at_every_step_of_the_longest_schedule(name):
    assert (Schedule.make(name, 10_000).alpha_bar.diff() < 0).all()
    with pytest.raises(ValueError, match="10000"):
        GaussianConfig(timesteps=10_001)


@pytest.mark.parametrize("body", ["bert", "modernbert", "llama"])
def test_a_blank_body_of_any_width_takes_no_memory(body):
    with torch.device("meta"):
        made = make_body(MaskedLMConfig(body=body, hidden=65_536, heads=256, ffn=262_144, layers=1))
    real = [value for value in (*made.parameters(), *made.buffers()) if not value.is_meta]
    assert real and sum(value.numel() for value in real) < 1e5


def test_what_is_read_has_to_be_listed(plain, tmp_path):
    folder = hostile(plain, "unlisted config.json", 0, tmp_path / "copy")
    assert "config.json" not in json.loads((folder / "manifest.json").read_text())
    with pytest.raises(UserError, match="manifest.json does not list config.json"):
        load(folder)
