#!/usr/bin/env bash
# torch 2.13.0: torch.exp on a CPU takes some hundred times as long where its results underflow; softmax of
# the same numbers does not.
#
# float32 exp is expected to take the same time whatever its input: a vectorized exp has no branches, and
# numpy's and torch's own softmax show it. On x86 torch hands contiguous exp to MKL's vector functions, whose
# results below 1.2e-38 take another way: 200 times the time for subnormal results, 100 for results that are 0. set_flush_denormal(True) does not change it. Language models that sample at a low temperature
# compute log_softmax(logits / T).exp(): at T = 0.3 most of a vocabulary is beyond e^-87, and one exp takes
# longer than the layers before it. softmax(logits / T) gives the same numbers.
# Source: aten/src/ATen/native/cpu/UnaryOpsKernel.cpp, IMPLEMENT_VML_KERNEL(exp); cpu/vml.h.
#
# Output seen (x86-64 with AVX-512; with MKL held to AVX2 the ratios are 75 and 45):
#   torch 2.13.0+cpu, one thread, 125,000 float32 numbers, microseconds, least of 30
#   expected: exp takes about the same time for all inputs, as softmax does
#   seen: around  -50: exp    33, softmax   111
#   seen: around  -95: exp  8666, softmax   116
#   seen: around -120: exp  3676, softmax   113
#   seen: around  -95 with set_flush_denormal(True): exp  8696
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-torch==2.13.0 numpy==2.4.6}
cd "$work" && venv/bin/python -I -W ignore - <<'PY'
import time

import torch

torch.set_num_threads(1)
print(f"torch {torch.__version__}, one thread, 125,000 float32 numbers, microseconds, least of 30")
print("expected: exp takes about the same time for all inputs, as softmax does")


def taken(call):
    call()
    found = []
    for _ in range(30):
        begun = time.thread_time()
        call()
        found.append(time.thread_time() - begun)
    return min(found) * 1e6


noise = torch.randn(200, 625, generator=torch.Generator().manual_seed(0))
exp, softmax = {}, {}
for middle in (-50, -95, -120):
    x = noise + middle
    exp[middle], softmax[middle] = taken(x.exp), taken(lambda x=x: x.softmax(-1))
    print(f"seen: around {middle:4d}: exp {exp[middle]:5.0f}, softmax {softmax[middle]:5.0f}")
flushed = torch.set_flush_denormal(True)
slow = taken((noise - 95).exp)
print(f"seen: around  -95 with set_flush_denormal({flushed}): exp {slow:5.0f}")
assert exp[-95] > 10 * exp[-50], "changed: subnormal results take no longer"
assert exp[-120] > 10 * exp[-50], "changed: results of 0 take no longer"
assert slow > 10 * exp[-50], "changed: flushing helps"
assert max(softmax.values()) < 3 * min(softmax.values()), "changed: softmax depends on its input"
PY
