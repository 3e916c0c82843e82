"""Artifact folders: what other programs can read of them, and what a hostile or damaged one gives:
one clear line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from spaces.config import LoraConfig, QuantizationConfig, TrialConfig
from spaces.errors import UserError
from trainable.artifacts.artifact import export, load
from trainable.artifacts.model_card import CARD
from trainable.artifacts.packed import Packed
from trainable.control.lexicon import Lexicon
from trainable.diffusion.gaussian.config import GaussianConfig
from trainable.metrics.size import folder_bytes
from trainable.models.diffusion_lm.config import DiffusionLMConfig
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.models.lora import add_lora
from trainable.quantization import sites
from trainable.registry import BACKBONES, PROCESSES
from trainable.stages.trial import record_measurements
from trainable.storage.folders import write_manifest

WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(36))]
CONFIG = TrialConfig(model=DiffusionLMConfig(embedding_dim=8, hidden=64, layers=1, heads=2, ffn=64,
                                             time_dim=8, dropout=0.0),
                     diffusion=GaussianConfig(timesteps=20), lora=LoraConfig(rank=2),
                     quantization=QuantizationConfig(quantizer="uniform:4", body="int8_dynamic"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    model = DiffusionLM(BACKBONES.params(CONFIG.model), PROCESSES.params(CONFIG.diffusion), WORDS).eval()
    sites.apply(model, CONFIG.quantization)
    add_lora(model, CONFIG.lora)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=torch.Generator().manual_seed(1))
    path = export(model, CONFIG, Lexicon(WORDS, 64, {}, "words"),
                  tmp_path_factory.mktemp("artifact") / "trial-0001", {"a": 1})
    return model, path


@pytest.mark.parametrize("quantizer", ["none", "uniform:4"])
@pytest.mark.parametrize("body", ["float32", "int8_dynamic"])
def test_what_an_export_will_weigh_is_known_before(quantizer, body, tmp_path):
    config = CONFIG.model_copy(update={"quantization": QuantizationConfig(quantizer=quantizer, body=body)})
    model = DiffusionLM(BACKBONES.params(config.model), PROCESSES.params(config.diffusion), WORDS).eval()
    sites.apply(model, config.quantization)
    add_lora(model, config.lora)
    lexicon = Lexicon(WORDS, 64, {}, "words")
    facts = {"train_seconds": 1.25}
    facts |= Packed.pack(model, config, lexicon).facts(facts)
    folder = export(model, config, lexicon, tmp_path / "trial", facts)
    assert facts["file_bytes"] == folder_bytes(folder, "*.safetensors")
    assert abs(facts["exported_bytes"] - folder_bytes(folder)) <= 1  # its own digits are in config.json


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[1], tmp_path / "copy")


def rewrite(folder, change):
    """Change config.json as someone would who also knows how to make a manifest."""
    head = json.loads((folder / "config.json").read_text())
    head = change(head) or head
    (folder / "config.json").write_text(json.dumps(head))
    write_manifest(folder)


NAME = "word_embedding.weight"


@pytest.mark.parametrize(("change", "words"), [
    (lambda head: head.update(format=99), "format 99, this version reads formats 1 and 2"),
    (lambda head: ["not", "a", "mapping"], "config.json is not a JSON object"),
    (lambda head: head.pop("facts") and None, "KeyError: 'facts'"),
    (lambda head: head.update(packing=[]), "facts and packing in config.json are not JSON objects"),
    (lambda head: head["config"].update(extra=1), "config.extra: Extra inputs"),
    (lambda head: head["config"]["model"].update(hidden=10**7, heads=1), "less than or equal to 65536"),
    (lambda head: head["config"]["model"].update(layers=2), "does not fit its config.json: .*[Mm]issing"),
    (lambda head: head["packing"][NAME].update(shape=[-40, -8]),
     r"packing of word_embedding.weight: shape \[-40, -8\]"),
    (lambda head: head["packing"][NAME].update(shape=[10**12, 8]),
     r"shape \[1000000000000, 8\], the model has \(40, 8\)"),
    (lambda head: head["packing"][NAME].update(shape="40"), "packing of word_embedding.weight"),
    (lambda head: head["packing"].pop(NAME) and None,
     "tensor word_embedding.weight::.* does not agree with packing"),
    (lambda head: head["packing"][NAME]["quantizer"].update(name="os.system"),
     "unknown quantizer 'os.system'"),
    (lambda head: head["packing"][NAME]["quantizer"].update(bits=8),
     "int8 codes, shape .* expected 320 elements, found 160"),
    (lambda head: head["packing"][NAME].pop("quantizer") and None,
     "does not fit its config.json: 'quantizer'"),
    (lambda head: head["packing"].update(nothing={"shape": [1, 1]}), "packing of nothing: shape .* None"),
    (lambda head: head["packing"]["body.layer.0.output.dense.weight"].update(
        body={"name": "int4_weight"}),
     "int4_weight codes, shape .* expected 2048 elements, found 4096"),
])
def test_a_config_that_lies_gives_one_line(copy, change, words):
    rewrite(copy, change)
    with pytest.raises(UserError, match=words) as error:
        load(copy)
    assert "\n" not in str(error.value) and str(copy) in str(error.value)


@pytest.mark.parametrize(("key", "value"), [
    ("word_embedding.weight::scale", torch.ones(39, dtype=torch.bfloat16)),
    ("up.0.weight", torch.ones(64, 9)), ("up.0.weight", torch.ones(64, 8, dtype=torch.float64)),
    ("surprise", torch.ones(2)), ("body.layer.0.output.dense.weight::codes", torch.ones(5, dtype=torch.int8)),
    ("body.layer.0.output.dense.weight", torch.ones(64, 64)),
])
def test_tensors_that_do_not_fit_give_one_line(copy, key, value):
    weights = copy / "model.safetensors"
    save_file({**load_file(weights), key: value}, weights)
    write_manifest(copy)
    with pytest.raises(UserError, match="does not fit its config.json") as error:
        load(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, (2**60).to_bytes(8, "little") + b"{}",
                                     b"\x02\0\0\0\0\0\0\0{}" + b"pickle"])
def test_weights_that_are_not_safetensors_give_one_line(copy, content):
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="model.safetensors has .* bytes"):
        load(copy)
    write_manifest(copy)
    with pytest.raises(UserError) as error:
        load(copy)
    assert "\n" not in str(error.value)


def test_a_changed_byte_is_found_by_its_checksum(copy):
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(UserError, match="model.safetensors does not match its checksum"):
        load(copy)


def test_artifacts_of_the_format_before_are_read(copy):
    rewrite(copy, lambda head: head.update(format=1))
    assert load(copy).facts == {"a": 1}


def test_tokenizer_is_read_by_transformers(made):
    fast = PreTrainedTokenizerFast(tokenizer_file=str(made[1] / "tokenizer.json"))
    assert fast("w0 w35 never w1")["input_ids"] == [0, 4, 39, 2, 5, 1]


def test_an_artifact_has_no_adapter_beside_its_weights(made):
    """It would be right on no base that is there: `qdlm export --to hf` gives one with its base."""
    assert sorted(path.name for path in made[1].iterdir()) == [
        "config.json", "lexicon.json", "manifest.json", "model.safetensors", "tokenizer.json"]


def test_the_card_tells_what_was_measured_and_is_not_counted(made, copy):
    before = folder_bytes(copy)
    record_measurements(copy, {"perplexity": 5.25, "perplexity_se": 0.5, "size_bytes": 123456.0,
                               "bits_per_weight": 9.5, "bits_per_weight_embedding": 6.0, "steps": 300,
                               "controllability_length": 0.25})
    card = (copy / CARD).read_text()
    for line in ("| perplexity | 5.25 | ± 0.98 |", "| size_bytes | 123,456 |", "| embedding | int4 | 6 |",
                 "| ffn | int8_dynamic, after training |", "| adapter | rank 2 on query, value |",
                 "| controllability_length | 0.25 |", "300 adaptation steps"):
        assert line in card
    assert folder_bytes(copy) == before and load(copy).facts == {"a": 1}


def test_the_card_says_that_inputs_have_seven_bits(copy):
    rewrite(copy, lambda head: head["config"]["quantization"]["body"].update(activation_bits=7))
    record_measurements(copy, {})
    assert "| ffn | int8_dynamic, after training, inputs of 7 bits |" in (copy / CARD).read_text()


def test_the_card_is_safe_to_show(copy):
    rewrite(copy, lambda head: head["config"]["corpus"].update(source={"name": "<script>|`x`\n# title"}))
    record_measurements(copy, {})
    card = (copy / CARD).read_text()
    assert "<script>" not in card and "&lt;script&gt;\\|'x' # title" in card


def test_a_large_tensor_is_read_part_by_part(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from trainable.artifacts import reading

    made = {"a": torch.randn(7, 3), "b": torch.randn(5).bfloat16(), "c": torch.tensor(2.0),
            "d": torch.zeros(0, 4), "e": torch.arange(24).view(4, 2, 3)}
    save_file(made, tmp_path / "x.safetensors")
    for size in (4, 30, 1000):
        monkeypatch.setattr(reading, "REMAP", size)
        found = reading.read_tensors(tmp_path / "x.safetensors")
        assert {name: value.dtype for name, value in found.items()} == {k: v.dtype for k, v in made.items()}
        assert all(torch.equal(value, made[name]) for name, value in found.items())


def test_a_run_in_the_place_of_an_artifact_is_told_its_models(tmp_path):
    for name in ("trial-0007", "trial-0003"):
        (tmp_path / "artifacts" / name).mkdir(parents=True)
        (tmp_path / "artifacts" / name / "config.json").touch()
    with pytest.raises(UserError, match=r"it is a run, give one of its models: .*trial-0003, .*trial-0007$"):
        load(tmp_path)
