#!/usr/bin/env bash
# bitsandbytes 0.50.2: double quantization makes small layers larger.
#
# Quantizing the scales of NF4 again is documented to save memory: 4.5 bits a weight become 4.127. That is
# the count without tables: each saved layer also carries its own 256-entry float32 table for the scales
# (nested_quant_map, the same in every layer), 16 levels and a JSON blob, 1.3 kB together. The saving of 3
# bytes a block of 64 pays for it only above some 24 thousand weights; below, compress_statistics=True (the
# default) makes the file larger. Attention layers of a diffusion LM with d <= 128 lie below that, so the
# switch moves the size axis the wrong way.
# Source: bitsandbytes/functional.py QuantState.as_dict; QLoRA paper, section 3, for 0.127 bits.
#
# Output seen:
#   bitsandbytes 0.50.2, torch 2.13.0+cpu
#   expected: 4.5 bits a weight without and 4.127 with double quantization
#   seen: 64 x 64: 4.775 without, 6.584 with
#   seen: 128 x 128: 4.570 without, 4.741 with
#   seen: 256 x 256: 4.517 without, 4.281 with
#   seen: 512 x 512: 4.504 without, 4.165 with
#   seen: 2048 x 2048: 4.500 without, 4.129 with
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-bitsandbytes==0.50.2 torch==2.13.0 numpy==2.4.6}
cd "$work" && venv/bin/python -I - <<'PY' 2>warnings.txt || { tail -5 "$work/warnings.txt" >&2; exit 1; }
import importlib.metadata

import bitsandbytes as bnb
import torch

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("bitsandbytes", "torch")), sep=", ")
print("expected: 4.5 bits a weight without and 4.127 with double quantization")


def bits(width: int, double: bool) -> float:
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(width, width, bias=False, quant_type="nf4", compress_statistics=double)
    layer.to("cpu")  # quantizes
    return sum(value.numel() * value.element_size() for value in layer.state_dict().values()) * 8 / width**2


seen = {}
for width in (64, 128, 256, 512, 2048):
    seen[width] = bits(width, False), bits(width, True)
    print(f"seen: {width} x {width}: {seen[width][0]:.3f} without, {seen[width][1]:.3f} with")
assert all(seen[width][1] > seen[width][0] for width in (64, 128)), "changed: small layers gain"
assert seen[64][1] > 5.5 and seen[2048][1] < 4.13, "changed: the overhead of a layer"
assert all(seen[width][1] < seen[width][0] for width in (256, 512, 2048)), "changed: wide layers lose"
PY
