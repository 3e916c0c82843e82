"""Tensors of a safetensors file that is mapped into memory: its header is parsed once, however many are read.

safetensors' own handle parses the header when it is opened, and all that was read through it stays resident
until it is closed. So whoever wants one tensor after the other, none of them for long, would parse it anew
for each: time that grows with the square of their number.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
          "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
"""How safetensors writes types."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: the bytes `start` to `stop` of the file, in a type by safetensors' name."""

    file: Path
    type: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def read(self) -> Tensor:
        """The tensor as a view of a mapping of its own: its pages come when they are read and go with it.
        Raises ValueError for a type that torch does not have."""
        dtype = DTYPES.get(self.type)
        if dtype is None or math.prod(self.shape) * dtype.itemsize != self.stop - self.start:
            raise ValueError(f"type {self.type}, which torch does not have")
        if self.start == self.stop:
            return torch.empty(self.shape, dtype=dtype)
        mapped = torch.UntypedStorage.from_file(str(self.file), False, self.stop)
        return torch.asarray(mapped[self.start:], dtype=torch.uint8).view(dtype).reshape(self.shape)


def stored(file: Path) -> dict[str, Stored]:
    """What a safetensors file holds, by name. Raises SafetensorError or OSError for a file that is none."""
    with safe_open(file, "pt"):  # that sizes and places are those of the file is safetensors' to say
        pass
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    return {name: Stored(file, entry["dtype"], tuple(entry["shape"]),
                         *(8 + size + place for place in entry["data_offsets"]))
            for name, entry in header.items() if name != "__metadata__"}
