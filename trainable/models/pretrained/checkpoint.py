"""A Hugging Face checkpoint on disk: its config and its tensors, mapped into memory. No code
of its is run."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from spaces.errors import UserError
from trainable.storage.folders import digest
from trainable.storage.mapped import Stored, stored

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
UNREAD = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class HuggingFaceFolder:
    """The folder of a checkpoint in safetensors, one file or shards with an index."""

    def __init__(self, folder: Path | str, key: str):
        """`key`: the setting that names it, for messages. Raises `UserError` in one line: no such folder, no
        config, no safetensors, a shard that is missing or damaged."""
        self.folder, self.key = Path(folder).expanduser(), key
        self.config = self._json(CONFIG)
        self._stored = self._found()

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

    def _found(self) -> dict[str, Stored]:
        """Tensor name -> where it lies. Every shard's header is parsed once."""
        if (self.folder / INDEX).is_file():
            listed = self._json(INDEX).get("weight_map")
            if not isinstance(listed, dict) or not listed:
                raise self.problem(f"{INDEX} holds no weight_map")
            files = {name: self.folder / str(file) for name, file in listed.items()}
            missing = sorted({path.name for path in files.values() if not path.is_file()})
            if missing:
                raise self.problem(f"{len(missing)} of {len(set(files.values()))} shards are missing: "
                                   f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}")
            inside = {path: self._inside(path) for path in sorted(set(files.values()))}
            for name, path in sorted(files.items(), key=lambda item: (item[1], item[0])):
                if name not in inside[path]:
                    raise self.problem(f"{path.name} lacks {name}, which {INDEX} says is there")
            return {name: inside[path][name] for name, path in files.items()}
        if (self.folder / WEIGHTS).is_file():
            return self._inside(self.folder / WEIGHTS)
        pickled = next((name for name in UNREAD if (self.folder / name).is_file()), None)
        why = f" ({pickled} is a pickle, which is never read)" if pickled else ""
        raise self.problem(f"no {WEIGHTS} in it{why}")

    def _inside(self, path: Path) -> dict[str, Stored]:
        try:
            return stored(path)
        except (SafetensorError, OSError) as error:
            raise self.problem(f"{path.name} cannot be read ({' '.join(str(error).split())[:80]})") from None

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._stored)

    def _of(self, name: str) -> Stored:
        if name not in self._stored:
            raise self.problem(f"holds no tensor {name}, which {self.architecture} has")
        return self._stored[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor. Raises `UserError` where there is none of this name."""
        return self._of(name).shape

    def tensor(self, name: str) -> Tensor:
        """One tensor in the dtype that it is stored in, as a view of a mapping of its own: its pages
        come when they are read and go with it. Raises `UserError` where there is none of this name, or
        torch does not have its type."""
        found = self._of(name)
        try:
            return found.read()
        except ValueError as error:
            raise self.problem(f"tensor {name} is of {error}") from None

    @cached_property
    def dtype(self) -> torch.dtype:
        """What its first matrix is stored in."""
        return next(self.tensor(name).dtype for name in sorted(self._stored) if len(self.shape(name)) == 2)

    @property
    def architecture(self) -> str:
        """The class that its config names, or nothing."""
        listed = self.config.get("architectures") or [""]
        return str(listed[0])

    def key_of_content(self) -> str:
        """What the folder holds, wherever it lies."""
        parts = [digest(self.folder / CONFIG),
                 *(digest(path) for path in sorted({one.file for one in self._stored.values()}))]
        return " ".join(parts)


def is_artifact(folder: Path | str) -> bool:
    """Whether a folder is an exported model of ours."""
    path = Path(folder).expanduser() / CONFIG
    try:
        return "packing" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False
