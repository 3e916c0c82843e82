#!/usr/bin/env bash
# torch 2.13.0: dynamic int8 quantization of an nn.TransformerEncoder raises or works by batch_first, and
# skips attention.
#
# quantize_dynamic on {nn.Linear} is expected to give a Transformer encoder that runs in eval mode, with all
# its matrix products in int8. With batch_first=True the layer's eval path asks linear1.weight for its
# device, and a quantized Linear's weight is a method: AttributeError, at the first forward pass, not when
# quantizing. In train mode, or with batch_first=False, the same model runs. And the four attention
# projections stay float32: the input projection is a bare parameter and the output projection a Linear made
# to be skipped, a third of the layer's weights at the usual 4x width. Sizes and errors of a "quantized
# body" are then those of its feed-forward half.
# Source: torch/nn/modules/transformer.py TransformerEncoderLayer.forward; torch/nn/modules/activation.py
# NonDynamicallyQuantizableLinear.
#
# Output seen:
#   torch 2.13.0+cpu
#   expected: the quantized encoder runs in eval mode, whatever batch_first is
#   seen: batch_first=True, eval: AttributeError: 'function' object has no attribute 'device'
#   seen: batch_first=True, train: runs, relative error 0.0057
#   seen: batch_first=False, eval: runs, relative error 0.0057
#   seen: batch_first=False, train: runs, relative error 0.0057
#   seen: weights of a layer left in float32: 65536 of 196608, all of the attention
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-torch==2.13.0 numpy==2.4.6}
cd "$work" && venv/bin/python -I -W ignore - <<'PY'
import torch
from torch import nn

print(f"torch {torch.__version__}")
print("expected: the quantized encoder runs in eval mode, whatever batch_first is")
x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(0))
seen = {}
for first in (True, False):
    for mode in ("eval", "train"):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=first)
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        quantized.train(mode == "train")
        with torch.no_grad():
            try:
                error = ((quantized(x) - model(x)).norm() / model(x).norm()).item()
                seen[first, mode] = f"runs, relative error {error:.4f}"
            except AttributeError as caught:
                seen[first, mode] = f"AttributeError: {caught}"
        print(f"seen: batch_first={first}, {mode}: {seen[first, mode]}")
runs = [words.startswith("runs") for words in seen.values()]
assert runs == [False, True, True, True], "changed: what runs"

block = quantized.layers[0]
float_weights = sum(value.numel() for value in block.parameters() if value.ndim == 2)
total = sum(value.numel() for value in layer.parameters() if value.ndim == 2)
print(f"seen: weights of a layer left in float32: {float_weights} of {total}, all of the attention")
assert float_weights == 4 * 128 * 128, "changed: attention is quantized"
PY
