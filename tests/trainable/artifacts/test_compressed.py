"""The codes in compressed-tensors' layout: plain transformers decodes the artifact's weights from them."""

from __future__ import annotations

import json

import checkpoints
import pytest
import torch
from exported_models import BODIES, exported, from_checkpoint
from safetensors import safe_open

from search.cli.main import main
from spaces.errors import UserError
from trainable.artifacts.artifact import load
from trainable.artifacts.compressed import export_compressed, layers_of

RTN = {"name": "rtn", "bits": 3, "group": 8}
TRIALS = {  # checkpoint, how its body is rounded: bits, group, symmetric, inputs
    "weights": ("bert", {"method": RTN}, (3, 8, False)),
    "rows": ("modernbert", {"method": {"name": "rtn", "bits": 8, "symmetric": True}}, (8, None, True)),
    "inputs": ("dream", {"method": {**RTN, "bits": 4}, "activation_bits": 8}, (4, 8, False)),
    "llada": ("llada", {"method": {**RTN, "symmetric": True, "bits": 2}}, (2, 8, True)),
}


@pytest.fixture(autouse=True)
def _library(request):
    if "without" not in request.node.name:
        pytest.importorskip("compressed_tensors", reason="not installed: qdlm[compressed]")


@pytest.mark.filterwarnings("ignore")  # of the library's own
@pytest.mark.parametrize("trial", TRIALS)
@torch.no_grad()
def test_transformers_gives_the_quantized_models_logits(trial, tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    name, calibration, (bits, group, symmetric) = TRIALS[trial]
    checkpoints.write(name, tmp_path / "checkpoint")
    artifact = from_checkpoint(name, tmp_path, **calibration)
    out = export_compressed(artifact, tmp_path / "out")
    scheme = json.loads((out / "config.json").read_text())["quantization_config"]
    weights = scheme["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (bits, group, symmetric)
    assert scheme["format"] == ("int-quantized" if trial == "inputs" else "pack-quantized")
    assert scheme["quant_method"] == "compressed-tensors" and scheme["quantization_status"] == "compressed"
    kind = AutoModelForMaskedLM if name in ("bert", "modernbert") else AutoModelForCausalLM
    model, told = kind.from_pretrained(out, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    loaded = load(artifact)  # rounds its inputs where the trial does
    table = torch.tensor(loaded.lexicon.tokens.table_rows())
    ids = torch.randint(4, len(table) - 1, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[:, ::3] = len(table) - 1
    found, want = model.eval()(table[ids]).logits, loaded.model(ids)
    if loaded.model.shift:
        found = torch.cat([found[:, :1], found[:, :-1]], 1)
    assert torch.allclose(found[..., table[4:-1]], want[..., 4:], atol=1e-4) and want.std() > 0.1
    for layer, held in layers_of(artifact).items():
        decoded = model.get_submodule(f"{model.base_model_prefix}.{layer}").weight
        assert torch.equal(decoded, held.weight.values), layer


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_bfloat16_model_keeps_its_type_and_its_codes(tmp_path):
    from transformers import AutoModelForCausalLM

    checkpoints.write("llada", tmp_path / "checkpoint", torch.bfloat16)
    artifact = from_checkpoint("llada", tmp_path, method={"name": "rtn", "bits": 8})
    out = export_compressed(artifact, tmp_path / "out")
    with safe_open(out / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
    assert kinds == {"BF16", "I32", "I64"}
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    loaded = load(artifact)
    table = torch.tensor(loaded.lexicon.tokens.table_rows())
    ids = torch.arange(4, 13)[None]
    found, want = model(table[ids]).logits[..., table[4:-1]], loaded.model(ids)[..., 4:]
    assert found.dtype == torch.bfloat16 and torch.equal(found, want)


@pytest.mark.parametrize("name, quantization, bits", [
    ("gaussian", {"body": {"name": "int4_weight", "group": 32}}, 4),
    ("modernbert", {"body": "int8_dynamic"}, 8),
    ("modernbert", {"body": {"name": "int8_dynamic", "activation_bits": 7}}, 8),
    ("llama", {"quantizer": "fixed:Q1i2f", "sites": ["ffn"]}, 4)])
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_bodies_and_trained_quantizers_are_codes_as_well(name, quantization, bits, tmp_path):
    from transformers import AutoModel

    artifact = exported(tmp_path, name, quantization)
    rounds, body = name == "modernbert", quantization.get("body")
    inputs = body["activation_bits"] if isinstance(body, dict) and rounds else 8
    model = AutoModel.from_pretrained(export_compressed(artifact, tmp_path / "out"))
    held = layers_of(artifact)
    assert {layer.weight.bits for layer in held.values()} == {bits}
    model(torch.arange(4, 9)[None])  # decodes
    prefix = "encoder." if name == "gaussian" else ""  # AutoModel gives the others without their heads
    decoded = load(artifact, run_codes=False).model.state_dict()
    for layer in held:
        assert torch.equal(model.get_submodule(prefix + layer).weight, decoded[f"body.{layer}.weight"])
    rounded = [layer for layer in model.modules() if hasattr(layer, "quantization_scheme")]
    assert len(rounded) == (len(held) if rounds else 0)
    assert all(layer.quantization_scheme.input_activations.num_bits == inputs for layer in rounded)


@pytest.mark.parametrize("quantization, said", [
    ({}, "no layer of its body is quantized"), (BODIES["trained"], "has an adapter apart from its codes"),
    ({"quantizer": "nf4", "sites": ["ffn"]}, "is not whole numbers times scales")])
def test_what_others_cannot_read_as_codes_is_one_line_and_leaves_nothing(quantization, said, tmp_path):
    with pytest.raises(UserError, match=said):
        export_compressed(exported(tmp_path, "bert", quantization), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_scaled_or_rotated_first_are_refused(tmp_path):
    checkpoints.write("bert", tmp_path / "checkpoint")
    artifact = from_checkpoint("bert", tmp_path, method=RTN, transforms=["rotation"])
    with pytest.raises(UserError, match=r"reads inputs that are changed first \(rotation\)"):
        export_compressed(artifact, tmp_path / "out")


def test_without_the_library_it_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert main(["export", str(tmp_path), "--to", "compressed-tensors"]) == 2
    assert "compressed-tensors: not installed; run: " in capsys.readouterr().err
