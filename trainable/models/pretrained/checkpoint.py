"""A Hugging Face checkpoint on disk: its config and its tensors, mapped into memory. No code
of its is run."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spaces.errors import UserError
from trainable.storage.folders import digest

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
UNREAD = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class HuggingFaceFolder:
    """The folder of a checkpoint in safetensors, one file or shards with an index."""

    def __init__(self, folder: Path | str, key: str):
        """`key`: the setting that names it, for messages. Raises `UserError` in one line: no such folder, no
        config, no safetensors, a shard that is missing or damaged."""
        self.folder, self.key = Path(folder).expanduser(), key
        self.config = self._json(CONFIG)
        self._file_of = self._files()

    def problem(self, text: str) -> UserError:
        """A complaint that names the setting and the folder."""
        return UserError(f"{self.key}: {self.folder}: {text}")

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            raise self.problem(f"not an artifact and not a Hugging Face checkpoint: no {name} in it")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self.problem(f"{name} cannot be read as JSON ({str(error)[:80]})") from None
        if not isinstance(value, dict):
            raise self.problem(f"{name} is not a JSON object")
        return value

    def _files(self) -> dict[str, Path]:
        """Tensor name -> its file."""
        if (self.folder / INDEX).is_file():
            listed = self._json(INDEX).get("weight_map")
            if not isinstance(listed, dict) or not listed:
                raise self.problem(f"{INDEX} holds no weight_map")
            files = {name: self.folder / str(file) for name, file in listed.items()}
            missing = sorted({path.name for path in files.values() if not path.is_file()})
            if missing:
                raise self.problem(f"{len(missing)} of {len(set(files.values()))} shards are missing: "
                                   f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}")
        elif (self.folder / WEIGHTS).is_file():
            files = dict.fromkeys(self._names(self.folder / WEIGHTS), self.folder / WEIGHTS)
        else:
            pickled = next((name for name in UNREAD if (self.folder / name).is_file()), None)
            why = f" ({pickled} is a pickle, which is never read)" if pickled else ""
            raise self.problem(f"no {WEIGHTS} in it{why}")
        for path in sorted(set(files.values())):
            inside = set(self._names(path))
            lost = sorted(name for name, file in files.items() if file == path and name not in inside)
            if lost:
                raise self.problem(f"{path.name} lacks {lost[0]}, which {INDEX} says is there")
        return files

    def _names(self, path: Path) -> list[str]:
        try:
            with safe_open(path, "pt") as opened:
                return list(opened.keys())
        except (SafetensorError, OSError) as error:
            raise self.problem(f"{path.name} cannot be read ({' '.join(str(error).split())[:80]})") from None

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor. Raises `UserError` where there is none of this name."""
        if name not in self._file_of:
            raise self.problem(f"holds no tensor {name}, which {self.architecture} has")
        with safe_open(self._file_of[name], "pt") as opened:
            return tuple(opened.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """One tensor in the dtype that it is stored in, as a view of a mapping of its own: its pages
        come when they are read and go with it. Raises `UserError` where there is none of this name."""
        self.shape(name)
        with safe_open(self._file_of[name], "pt") as opened:
            return opened.get_tensor(name)

    @cached_property
    def dtype(self) -> torch.dtype:
        """What its first matrix is stored in."""
        return next(self.tensor(name).dtype for name in sorted(self._file_of) if len(self.shape(name)) == 2)

    @property
    def architecture(self) -> str:
        """The class that its config names, or nothing."""
        listed = self.config.get("architectures") or [""]
        return str(listed[0])

    def key_of_content(self) -> str:
        """What the folder holds, wherever it lies."""
        parts = [digest(self.folder / CONFIG),
                 *(digest(path) for path in sorted(set(self._file_of.values())))]
        return " ".join(parts)


def is_artifact(folder: Path | str) -> bool:
    """Whether a folder is an exported model of ours."""
    path = Path(folder).expanduser() / CONFIG
    try:
        return "packing" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False
