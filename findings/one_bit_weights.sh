#!/usr/bin/env bash
# torchao 0.18.0 and hqq 0.2.8.post1: one-bit weights are as bad as none at all, or worse.
#
# One bit a weight is expected to be sign(w) times a scale: for Gaussian weights mean(|w|) leaves a relative
# error of 0.60 (sqrt(1 - 2/pi)), and setting the layer to zero leaves 1. torchao offers torch.int1 for
# IntxWeightOnlyConfig, a two's-complement grid {-1, 0} with the scale taken from the absolute maximum:
# every weight becomes 0. hqq's BaseQuantizeConfig(nbits=1) puts its two levels at the group's minimum and
# maximum: error 1.5, with its optimizer on. A search over 1..8 bits that reaches for these reads "1 bit is
# useless" off the grid, not off the bit.
# Source: torchao/quantization/quant_api.py IntxWeightOnlyConfig, quant_primitives.py (range of int1);
# hqq/core/quantize.py Quantizer.quantize.
#
# Output seen:
#   torchao 0.18.0, hqq 0.2.8.post1, torch 2.13.0+cpu
#   expected: sign times mean of the group of 64: relative error 0.6; all zeros: 1.0
#   seen: torchao int1: 1.0, values other than 0: 0; hqq nbits=1: 1.48
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    ${PIN:-torchao==0.18.0 hqq==0.2.8.post1 torch==2.13.0 transformers==5.23.0 numpy==2.4.6}
cd "$work" && venv/bin/python -I - <<'PY' 2>warnings.txt || { tail -5 "$work/warnings.txt" >&2; exit 1; }
import importlib.metadata

import torch
from hqq.core.quantize import Quantizer
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("torchao", "hqq", "torch")), sep=", ")
torch.manual_seed(0)
layer = torch.nn.Sequential(torch.nn.Linear(512, 256, bias=False))
weight = torch.randn(256, 512)
layer[0].weight.data.copy_(weight)


def error(values: torch.Tensor) -> float:
    return round(((values.float() - weight).norm() / weight.norm()).item(), 2)


groups = weight.view(256, -1, 64)
sign = error((groups.sign() * groups.abs().mean(-1, keepdim=True)).view_as(weight))
print(f"expected: sign times mean of the group of 64: relative error {sign}; all zeros: 1.0")
quantize_(layer, IntxWeightOnlyConfig(weight_dtype=torch.int1, granularity=PerGroup(64)))
values = layer[0].weight.dequantize()
codes, meta = Quantizer.quantize(weight.clone(), nbits=1, group_size=64, optimize=True, device="cpu",
                                 compute_dtype=torch.float32)
torchao, hqq = error(values), error(Quantizer.dequantize(codes, meta).reshape(weight.shape))
print(f"seen: torchao int1: {torchao}, values other than 0: {int((values != 0).sum())}; hqq nbits=1: {hqq}")
assert sign == 0.6 and torchao == 1.0 and not values.any(), "changed: torchao"
assert hqq > 1.3, "changed: hqq"
PY
