#!/usr/bin/env bash
# torchao 0.18.0 stores int1 to int7 in 8 bits a weight, hqq 0.2.8.post1 its 3 bits in 3.5.
#
# A layer quantized to b bits is expected to take b bits a weight, plus scales. torchao's
# IntxWeightOnlyConfig keeps one int8 a weight from int1 to int8 (its packing is named UNPACKED_TO_INT8 and
# is the default), in memory and in a saved file. hqq packs 3-bit codes ten to an int32 along the group: 3.2
# bits would be possible, a group of 64 takes 3.5. A size axis read from these files is flat below 8 bits;
# one computed from the names is a promise no file keeps.
# Source: torchao/quantization/quant_api.py IntxWeightOnlyConfig.intx_packing_format; hqq/core/bitpack.py
# pack_3bit_32.
#
# Output seen:
#   torchao 0.18.0, hqq 0.2.8.post1, torch 2.13.0+cpu
#   expected: the named bits a weight for the codes, without scales
#   seen: torchao int1: 8 bits a weight, file of 285007 bytes (the same line up to int8)
#   seen: hqq nbits=8: 8 bits a weight
#   seen: hqq nbits=4: 4 bits a weight
#   seen: hqq nbits=3: 3.5 bits a weight
#   seen: hqq nbits=2: 2 bits a weight
#   seen: hqq nbits=1: 1 bits a weight
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    ${PIN:-torchao==0.18.0 hqq==0.2.8.post1 torch==2.13.0 transformers==5.23.0 numpy==2.4.6}
cd "$work" && venv/bin/python -I - <<'PY' 2>warnings.txt || { tail -5 "$work/warnings.txt" >&2; exit 1; }
import importlib.metadata
import os

import torch
from hqq.core.quantize import Quantizer
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("torchao", "hqq", "torch")), sep=", ")
print("expected: the named bits a weight for the codes, without scales")
files = []
for bits in range(1, 9):
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(512, 512, bias=False))
    kind = getattr(torch, f"int{bits}")
    quantize_(layer, IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerGroup(64)))
    codes = layer[0].weight.qdata
    torch.save(layer.state_dict(), "layer.pt")
    files.append(os.path.getsize("layer.pt"))
    stored = codes.numel() * codes.element_size() * 8 / 512**2
    print(f"seen: torchao int{bits}: {stored:g} bits a weight, file of {files[-1]} bytes")
    assert stored == 8, "changed: torchao packs"
assert len(set(files)) == 1, "changed: files differ"
for bits, known in ((8, 8), (4, 4), (3, 3.5), (2, 2), (1, 1)):
    codes, _ = Quantizer.quantize(torch.randn(512, 512), nbits=bits, group_size=64, device="cpu",
                                  compute_dtype=torch.float32)
    stored = codes.numel() * codes.element_size() * 8 / 512**2
    print(f"seen: hqq nbits={bits}: {stored:g} bits a weight")
    assert stored == known, "changed: hqq"
PY
