#!/usr/bin/env bash
# gguf 0.19.0: the ternary formats TQ1_0 and TQ2_0 set nearly nine of ten Gaussian weights to zero.
#
# Ternary weights are expected to be scaled by a mean of |w| (TWN, BitNet b1.58): on Gaussian weights about
# a third of them become 0 and the relative error is 0.51. gguf.quants scales each block of 256 by its
# largest |w|, so only weights above half the maximum survive: 87 % zeros, error 0.81. The formats are exact
# for a model that was trained ternary; as a post-training choice beside Q4_0 or Q8_0 they fall off a cliff
# that is the scale's, not the bits'. A search over GGUF types would discard 1.7 and 2.1 bits for the wrong
# reason.
# Source: gguf/quants.py TQ1_0.quantize_blocks, TQ2_0.quantize_blocks.
#
# Output seen:
#   gguf 0.19.0, numpy 2.4.6
#   expected: relative error and zeros of an absmean ternary row: (0.513, 0.308)
#   seen: TQ2_0, 2.0625 bits a weight: (0.809, 0.869)
#   seen: TQ1_0, 1.6875 bits a weight: (0.809, 0.869)
#   seen: weights that are ternary already come back exactly: True
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-gguf==0.19.0 numpy==2.4.6}
cd "$work" && venv/bin/python -I - <<'PY'
import importlib.metadata

import gguf
import numpy as np
from gguf import quants

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("gguf", "numpy")), sep=", ")
weight = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)


def measures(values: np.ndarray) -> tuple[float, float]:
    error = np.linalg.norm(values - weight) / np.linalg.norm(weight)
    return round(float(error), 3), round(float((values == 0).mean()), 3)


mean = np.abs(weight).mean(1, keepdims=True)
best = measures(np.clip(np.round(weight / mean), -1, 1) * mean)
print(f"expected: relative error and zeros of an absmean ternary row: {best}")
for name in ("TQ2_0", "TQ1_0"):
    kind = gguf.GGMLQuantizationType[name]
    packed = quants.quantize(weight, kind)
    seen = measures(quants.dequantize(packed, kind))
    print(f"seen: {name}, {packed.nbytes * 8 / weight.size:.4f} bits a weight: {seen}")
    assert seen[0] > 0.75 and seen[1] > 0.8 > best[1], "changed: the scale"
codes = np.random.default_rng(1).integers(-1, 2, (64, 1024)).astype(np.float32) * 0.25
packed = quants.quantize(codes, gguf.GGMLQuantizationType.TQ2_0)
exact = np.array_equal(quants.dequantize(packed, gguf.GGMLQuantizationType.TQ2_0), codes)
print(f"seen: weights that are ternary already come back exactly: {exact}")
assert exact
PY
