"""Independent random streams from one recorded seed."""

import zlib

import numpy as np
import torch


def stream_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else (not on process, platform or
    PYTHONHASHSEED)."""
    numbers = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in parts]
    # The count goes first because numpy's SeedSequence takes [x] and [x, 0] for the same.
    return int(np.random.SeedSequence([len(parts), *numbers]).generate_state(1, np.uint64)[0] >> 1)


def stream(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by `stream_seed(*parts)`."""
    return torch.Generator(device).manual_seed(stream_seed(*parts))
