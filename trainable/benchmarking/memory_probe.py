"""`python -m trainable.benchmarking.memory_probe PARENT ARTIFACT DEVICE BATCH STEPS TABLE`: memory
of one artifact, as JSON. PARENT: the process with which it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

import torch

from trainable.artifacts.artifact import load
from trainable.compat import int8_matmul, int8_weight_matmul
from trainable.models.parts import Table
from trainable.parent import end_with_parent
from trainable.seeds import stream

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> dict[str, int]:
    """Resident bytes of this process, now and at most (Linux); empty elsewhere."""
    if not _STATUS.is_file():
        return {}
    found = dict(line.split(":", 1)
                 for line in _STATUS.read_text().splitlines() if line.startswith(("VmRSS", "VmHWM")))
    return {name: int(value.split()[0]) * 1024 for name, value in found.items()}


def warm_up() -> None:
    """Load what libraries load at their first use, so that it is not counted as the artifact's."""
    x = torch.randn(64, 64)
    layer = torch.nn.TransformerEncoderLayer(64, 2, 64, batch_first=True).eval()
    with torch.inference_mode():
        layer(x[None])
        int8_matmul(x.to(torch.int8), x.to(torch.int8).t())
        int8_weight_matmul(x.bfloat16(), x.to(torch.int8), x[0].bfloat16())
        (x.bfloat16() @ x.bfloat16()).float()


def probe(artifact: str, device: str, batch: int, steps: int, table: Table = "auto") -> dict[str, int | None]:
    """`resident` and `peak` bytes: see `trainable.benchmarking.bench.weight`."""
    warm_up()
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.zeros(1, device=device)
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        _RESET.write_text("5")  # the peak starts anew
    before = resident()
    model = load(artifact, device, table=table)
    model.generate(batch, stream("memory", 0), steps=steps)
    if cuda:
        return {"resident": torch.cuda.memory_allocated(device),
                "peak": torch.cuda.max_memory_allocated(device)}
    if not before:
        return {"resident": None, "peak": None}
    after = resident()
    return {"resident": after["VmRSS"] - before["VmRSS"], "peak": after["VmHWM"] - before["VmRSS"]}


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    torch.manual_seed(0)
    print(json.dumps(probe(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]),
                           *cast(list[Table], sys.argv[6:]))))
