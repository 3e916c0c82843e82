"""Tensors of a file as they lie in it, and how often its header is read."""

import json

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spaces.errors import UserError
from trainable.models.pretrained.checkpoint import CONFIG, INDEX, HuggingFaceFolder
from trainable.storage import mapped


def test_every_type_and_shape_is_read_as_safetensors_does(tmp_path):
    made = {f"of {dtype}": (torch.arange(6) % 2).reshape(2, 3).to(dtype) for dtype in mapped.DTYPES.values()}
    made |= {"number": torch.tensor(2.5), "empty": torch.zeros(0, 4), "odd": torch.tensor([True])}
    save_file(made, tmp_path / "x.safetensors", metadata={"format": "pt"})
    theirs = load_file(tmp_path / "x.safetensors")
    found = {name: place.read() for name, place in mapped.stored(tmp_path / "x.safetensors").items()}
    assert set(found) == set(theirs)
    for name, value in found.items():
        assert value.dtype == theirs[name].dtype and value.shape == theirs[name].shape
        assert value.reshape(-1).view(torch.uint8).tolist() == theirs[name].reshape(-1).view(
            torch.uint8).tolist()


def test_what_is_read_may_be_written_to_and_the_file_stays(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "x.safetensors")
    found = mapped.stored(tmp_path / "x.safetensors")
    found["a"].read().zero_()
    assert found["a"].read().tolist() == [1.0, 1.0, 1.0]


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{")
    with pytest.raises(SafetensorError):
        mapped.stored(tmp_path / "x.safetensors")


def test_a_checkpoint_of_many_tensors_parses_each_header_once(tmp_path, monkeypatch):
    shards = {f"{part}.safetensors": {f"layer.{part}.{place}": torch.full((2, 3), float(place))
                                      for place in range(50)} for part in range(2)}
    for file, tensors in shards.items():
        save_file(tensors, tmp_path / file)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {name: file for file, tensors in shards.items()
                                                             for name in tensors}}))
    (tmp_path / CONFIG).write_text(json.dumps({"architectures": ["Any"]}))
    opened, original = [], mapped.safe_open
    monkeypatch.setattr(mapped, "safe_open", lambda *given: opened.append(given[0]) or original(*given))
    folder = HuggingFaceFolder(tmp_path, "base.path")
    for tensors in shards.values():
        for name, value in tensors.items():
            assert folder.shape(name) == (2, 3) and torch.equal(folder.tensor(name), value)
    assert folder.dtype == torch.float32 and len(opened) == len(shards)
    with pytest.raises(UserError, match=r"^base.path: .*: holds no tensor layer.9.9, which Any has$"):
        folder.tensor("layer.9.9")
