"""The graph gives the network's outputs in onnxruntime, at other sizes than the example's."""

from __future__ import annotations

import json

import pytest
import torch
from exported_models import BODIES, exported

from search.cli.main import main
from trainable.artifacts.artifact import load
from trainable.artifacts.onnx_graph import GRAPH, NEEDS, export_onnx


@pytest.mark.parametrize("name", ["gaussian_told", "modernbert"])
@torch.no_grad()
def test_onnxruntime_gives_the_artifacts_outputs(name, tmp_path):
    for needed in (*NEEDS, "onnxruntime"):
        pytest.importorskip(needed, reason=f"no {needed}: pip install -e .[onnx]")
    import onnxruntime

    artifact = exported(tmp_path, name, BODIES["trained"])
    graph = onnxruntime.InferenceSession(str(export_onnx(artifact, tmp_path / "graph") / GRAPH))
    model, generator = load(artifact, run_codes=False).model, torch.Generator().manual_seed(0)
    for batch, length in ((1, 7), (3, 11)):
        ids = torch.randint(4, 21, (batch, length), generator=generator)
        given = {"ids": ids}
        if name == "gaussian_told":
            noise = torch.randn(2, batch, length, 8, generator=generator)
            times = torch.tensor([3, 9, 17][:batch])
            given = {"latents": noise[0], "times": times, "previous": noise[1]}
        found = graph.run(None, {key: value.numpy() for key, value in given.items()})
        want = [model(*given.values())]
        want += [model.logits(want[0])] if name == "gaussian_told" else []
        for one, other in zip(found, want, strict=True):
            assert (torch.from_numpy(one) - other).abs().max() < 1e-4 < other.abs().mean()


def test_without_the_exporter_it_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert main(["export", str(tmp_path), "--to", "onnx"]) == 2
    assert "onnx and onnxscript: not installed; run: " in capsys.readouterr().err


def test_what_cannot_be_exported_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact = exported(tmp_path, "bert", {})
    for to, said in (("gguf", "unknown form 'gguf'; legal: hf, compressed-tensors, onnx"),
                     ("onx", "did you mean 'onnx'?")):
        assert main(["export", str(artifact), "--to", to]) == 2
        assert said in capsys.readouterr().err
    head = json.loads((artifact / "config.json").read_text())
    head["packing"]["body.layer"] = {"post_training": {"name": "rtn"}, "activation_bits": 8, "shape": [1, 1]}
    monkeypatch.setattr("trainable.artifacts.huggingface.read_files", lambda path: (head, None, None, {}))
    assert main(["export", str(artifact), "--to", "hf"]) == 2
    assert "its layers round their inputs to 8 bits" in capsys.readouterr().err
    assert not (tmp_path / "trial-0001-hf").exists()


def test_the_command_says_where_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(exported(tmp_path, "bert", {})), "--to", "hf"]) == 0
    assert capsys.readouterr().out == "trial-0001-hf\n"
    assert (tmp_path / "trial-0001-hf" / "config.json").is_file()
