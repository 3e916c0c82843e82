"""Products of an `int8_dynamic` body against float32: `python -m benchmarks.int8_products [--avx2]`.

Layers [in] -> [out] with a bias, activations of 8 and of 7 bits, one thread, products in turns; of each the
least CPU time of many calls, since other work on the machine only ever adds to it. Says which one is chosen
when a model is loaded. `--avx2` starts itself anew with the AVX2 kernels of every library forced
(`FORCED`), those of a CPU without VNNI: its JSON says so. Forced kernels run on this machine's processor,
with its caches and its clock: of a processor without VNNI they tell what is exact, and of its pace nothing
certain.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from typing import Any

import torch

from benchmarks.common import save
from trainable.quantization import int8_products
from trainable.quantization.int8_body import Int8Dynamic, Int8DynamicParams, fastest_int8

SHAPES = ((64, 64), (256, 64), (128, 128), (512, 128), (384, 384), (1536, 384), (768, 768), (3072, 768),
          (768, 3072))
ROWS = (1, 8, 64)
FORCED = {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
          "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--avx2", action="store_true", help="force AVX2 kernels, without VNNI")
    parser.add_argument("--name", help="of the JSON; int8_products or int8_products_avx2 unless given")
    args = parser.parse_args()
    if args.avx2 and any(os.environ.get(key) != value for key, value in FORCED.items()):
        # libraries read them once, when they are loaded
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.int8_products", *sys.argv[1:]],
                  {**os.environ, **FORCED})
    torch.set_num_threads(1)
    figures = [measured(shape, rows, args.calls) for shape in SHAPES for rows in ROWS]
    chosen = {f"{out} x {width}": {bits: fastest_int8((out, width), 1, bits) for bits in int8_products.BITS}
              for out, width in SHAPES}
    save(args.name or ("int8_products_avx2" if args.avx2 else "int8_products"), {
        "kernels": kernels(), "unit": "microseconds",
        "offered": {bits: int8_products.offered(CPU, bits) for bits in int8_products.BITS},
        "chosen": chosen, "layers": figures})
    show(figures, chosen)


def kernels() -> dict[str, Any]:
    """Whether instruction sets of the libraries were limited, and by what; else those of the processor."""
    found = {key: os.environ[key] for key in FORCED if key in os.environ}
    return {"forced": found, "torch": torch.backends.cpu.get_cpu_capability(),
            **({"note": "kernels for fewer instructions than cpu_flags names, forced on that processor; a "
                        "CPU that has no others was not at hand"} if found else {})}


@torch.no_grad()
def measured(shape: tuple[int, int], rows: int, calls: int) -> dict[str, Any]:
    """Microseconds of every product that is right here, by bits of the activations."""
    noise = torch.Generator().manual_seed(0)
    weight, x = torch.randn(shape, generator=noise), torch.randn(rows, shape[1], generator=noise)
    layers = {}
    for bits in int8_products.BITS:
        for name in int8_products.offered(CPU, bits):
            form = Int8Dynamic(Int8DynamicParams(product=name, activation_bits=bits))
            key = name if name == int8_products.FLOAT32 else f"{name}, {bits} bits"
            layers[key] = form.linear(form.encode(weight), shape, torch.zeros(shape[0]))
    best = dict.fromkeys(layers, math.inf)
    for _ in range(calls):
        for name, layer in layers.items():
            layer(x)
            began = time.thread_time()
            layer(x)
            best[name] = min(best[name], time.thread_time() - began)
    return {"out": shape[0], "in": shape[1], "rows": rows,
            **{name: round(1e6 * seconds, 1) for name, seconds in best.items()}}


def show(figures: list[dict[str, Any]], chosen: dict[str, dict[int, str]]) -> None:
    """Print the table as Markdown: how many times faster than float32, by rows."""
    names = [name for name in figures[0] if "bits" in name]
    print("| out x in | " + " | ".join(f"{name}, {rows} rows" for name in names for rows in ROWS)
          + " | chosen, 8 and 7 bits |\n|---|" + "---|" * (len(names) * len(ROWS) + 1))
    for shape, kept in chosen.items():
        own = [each for each in figures if f"{each['out']} x {each['in']}" == shape]
        cells = [f"{each['float32'] / each[name]:.2f}" for name in names for each in own]
        print(f"| {shape} | " + " | ".join(cells) + f" | {', '.join(kept.values())} |")


if __name__ == "__main__":
    main()
