#!/usr/bin/env bash
# torch 2.13.0: "dynamic int8" Linear layers give activations 7 bits, so their error is twice that of int8.
#
# torch.ao.quantization.quantize_dynamic(dtype=torch.qint8) is expected to quantize activations to 8 bits:
# 255 steps between minimum and maximum. The module passes reduce_range=True to the kernel whenever the
# engine is x86 or fbgemm, which leaves 127 steps. It guards old processors against saturation in 16-bit
# sums; it is fixed in the module, with no argument, also on processors that need no such guard. Its output
# equals a 7-bit reference to rounding. W8A8 numbers from this path are W8A7 numbers: an activation-bits
# axis needs the operator with reduce_range=False.
# Source: torch/ao/nn/quantized/dynamic/modules/linear.py (reduce_range=True). On x86-64; other processors
# use qnnpack.
#
# Output seen:
#   torch 2.13.0+cpu, engine x86
#   expected: 255 steps: relative error 0.0039; largest distance of the layer's output from this
#     reference 1.0e-02
#   seen: 127 steps: relative error 0.0080; largest distance of the layer's output from this reference
#     6.0e-07
#   the layer's own relative error 0.0080
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-torch==2.13.0 numpy==2.4.6}
cd "$work" && venv/bin/python -I -W ignore - <<'PY'
import torch

print(f"torch {torch.__version__}, engine {torch.backends.quantized.engine}")
torch.manual_seed(0)
model = torch.ao.quantization.quantize_dynamic(
    torch.nn.Sequential(torch.nn.Linear(256, 64, bias=False)), {torch.nn.Linear}, dtype=torch.qint8)
weight = model[0].weight().dequantize()
x = torch.rand(64, 256) * 2 - 1
low, high = x.min(), x.max()


def reference(steps: int) -> torch.Tensor:
    scale = (high - low) / steps
    zero = torch.round(-low / scale)
    return ((torch.round(x / scale) + zero).clamp(0, steps) - zero) * scale @ weight.T


exact, seen = x @ weight.T, model(x)
for steps in (255, 127):
    gap, error = (seen - reference(steps)).abs().max(), (reference(steps) - exact).norm() / exact.norm()
    print(f"{'expected' if steps == 255 else 'seen'}: {steps} steps: relative error {error:.4f}; "
          f"largest distance of the layer's output from this reference {gap:.1e}")
print(f"the layer's own relative error {(seen - exact).norm() / exact.norm():.4f}")
assert (seen - reference(127)).abs().max() < 1e-5, "changed: not 127 steps"
assert (seen - reference(255)).abs().max() > 1e-3, "changed: 255 steps"
PY
