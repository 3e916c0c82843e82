#!/usr/bin/env bash
# torchao 0.18.0: int8 makes a small language model with a tied head bigger.
#
# Int8 weight-only quantization is expected to take a quarter of the bytes. quantize_ looks at Linear
# modules: it swaps the head's weight for an int8 copy, which unties it from the embedding; the embedding
# stays float32. A small LM with most of its weights in that one table ends up larger, in memory and on
# disk, and neither quantize_ nor the saved file says so. Diffusion LMs tie head and table as a rule
# (rounding is the table), and small ones are mostly table.
# Source: torchao/quantization/quant_api.py quantize_ (default filter_fn: Linear layers).
#
# Output seen:
#   torchao 0.18.0, torch 2.13.0+cpu
#   float32: 4164111 bytes on disk, tied: True
#   expected: about a quarter, or a refusal, and still tied
#   seen: 5181041 bytes (1.24x), tied: False, table torch.float32 Parameter, head Int8Tensor, logits 0.0076
#     off
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-torchao==0.18.0 torch==2.13.0 numpy==2.4.6}
cd "$work" && venv/bin/python -I - <<'PY' 2>warnings.txt || { tail -5 "$work/warnings.txt" >&2; exit 1; }
import importlib.metadata
import os

import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("torchao", "torch")), sep=", ")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8000, 128)
        self.body = nn.Linear(128, 128)
        self.head = nn.Linear(128, 8000, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.table(ids)))


def size(model: nn.Module) -> int:
    torch.save(model.state_dict(), "model.pt")
    return os.path.getsize("model.pt")


torch.manual_seed(0)
model = Tied()
ids = torch.arange(16)[None]
before, logits = size(model), model(ids)
print(f"float32: {before} bytes on disk, tied: {model.head.weight is model.table.weight}")
print("expected: about a quarter, or a refusal, and still tied")
quantize_(model, Int8WeightOnlyConfig())
after, tied = size(model), model.head.weight is model.table.weight
error = ((model(ids) - logits).norm() / logits.norm()).item()
print(f"seen: {after} bytes ({after / before:.2f}x), tied: {tied}, table {model.table.weight.dtype} "
      f"{type(model.table.weight).__name__}, head {type(model.head.weight).__name__}, logits {error:.4f} off")
assert after > before and not tied, "changed: the tied head no longer grows"
PY
