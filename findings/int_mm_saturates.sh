#!/usr/bin/env bash
# torch 2.13.0 and oneDNN: with ONEDNN_MAX_CPU_ISA below VNNI, torch._int_mm returns wrong sums, in silence.
#
# torch._int_mm multiplies int8 by int8 into int32: exact, whatever the instructions. torch knows that
# oneDNN's kernels without VNNI add pairs of products in 16 bits, which saturate, and leaves them to plain
# loops on such CPUs: but it asks the processor, and oneDNN's documented variable that limits its instruction
# sets changes what oneDNN does, not what the processor says. So whoever sets it on a CPU with VNNI, to
# compare kernels or to repeat figures of another machine, gets wrong sums as soon as codes are large.
# Source: torch's report of the same sums on CPUs without VNNI (pytorch issue 136746), mended by a look at the
# processor (pytorch pull request 136942). On a processor without AVX-512 VNNI this script says so and ends.
#
# Output seen:
#   torch 2.13.0+cpu, ONEDNN_MAX_CPU_ISA not set
#     normal codes: 0 of 4096 sums wrong, relative error 0.000
#     largest codes: 0 of 4096 sums wrong, relative error 0.000
#   torch 2.13.0+cpu, ONEDNN_MAX_CPU_ISA AVX2
#     normal codes: 242 of 4096 sums wrong, relative error 0.018
#     largest codes: 4096 of 4096 sums wrong, relative error 0.992
#   torch 2.13.0+cpu, ONEDNN_MAX_CPU_ISA AVX512_CORE
#     normal codes: 242 of 4096 sums wrong, relative error 0.018
#     largest codes: 4096 of 4096 sums wrong, relative error 0.992
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile ${PIN:-torch==2.13.0 numpy==2.4.6}
cat > "$work/sums.py" <<'PY'
import os

import torch

if not torch.cpu.get_capabilities().get("avx512_vnni"):
    print("no AVX-512 VNNI here: torch multiplies in plain loops")
    raise SystemExit
noise = torch.Generator().manual_seed(0)
normal = (40 * torch.randn(2, 64, 768, generator=noise)).round().clamp(-127, 127).to(torch.int8)
largest = torch.full((2, 64, 768), 127, dtype=torch.int8)
limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
print(f"torch {torch.__version__}, ONEDNN_MAX_CPU_ISA {limit or 'not set'}")
for name, (a, b) in (("normal", normal), ("largest", largest)):
    sums, expected = torch._int_mm(a, b.t()), (a.double() @ b.double().t()).to(torch.int32)
    wrong, error = int((sums != expected).sum()), (sums - expected).double().norm() / expected.double().norm()
    print(f"  {name} codes: {wrong} of {sums.numel()} sums wrong, relative error {error:.3f}")
    assert wrong == 0 or limit, "changed: wrong without a limit, too"
assert wrong or not limit, "changed: the sums are right"
PY
cd "$work" && venv/bin/python -I -W ignore sums.py
for limit in AVX2 AVX512_CORE; do ONEDNN_MAX_CPU_ISA=$limit venv/bin/python -I -W ignore sums.py; done
