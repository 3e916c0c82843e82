"""Products of an `int8_dynamic` body against float32: `python -m benchmarks.int8_products`.

Layers [in] -> [out] with a bias, one thread, products in turns; of each the least CPU time of many calls,
since other work on the machine only ever adds to it. Says which one is chosen when a model is loaded. Flags
of the processor stand in the JSON: nothing follows for processors without them.
"""

from __future__ import annotations

import argparse
import math
import time

import torch

from benchmarks.common import save
from trainable.quantization import int8_products
from trainable.quantization.body_formats import Int8Dynamic, Int8DynamicParams, fastest_int8

SHAPES = ((64, 64), (256, 64), (128, 128), (512, 128), (384, 384), (1536, 384), (768, 768), (3072, 768),
          (768, 3072))
ROWS = (1, 8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--name", default="int8_products", help="of the JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = [measured(shape, rows, args.calls) for shape in SHAPES for rows in ROWS]
    chosen = {f"{out} x {width}": fastest_int8((out, width), 1) for out, width in SHAPES}
    save(args.name, {"fbgemm_is_exact": int8_products.fbgemm_is_exact(), "unit": "microseconds",
                     "chosen": chosen, "layers": figures})
    show(figures, chosen)


@torch.no_grad()
def measured(shape: tuple[int, int], rows: int, calls: int) -> dict:
    """Microseconds of every product that is right here."""
    noise = torch.Generator().manual_seed(0)
    weight, x = torch.randn(shape, generator=noise), torch.randn(rows, shape[1], generator=noise)
    layers = {}
    for name in int8_products.offered(torch.device("cpu")):
        form = Int8Dynamic(Int8DynamicParams(product=name))
        layers[name] = form.linear(form.encode(weight), shape, torch.zeros(shape[0]))
    best = dict.fromkeys(layers, math.inf)
    for _ in range(calls):
        for name, layer in layers.items():
            layer(x)
            began = time.thread_time()
            layer(x)
            best[name] = min(best[name], time.thread_time() - began)
    return {"out": shape[0], "in": shape[1], "rows": rows,
            **{name: round(1e6 * seconds, 1) for name, seconds in best.items()}}


def show(figures: list[dict], chosen: dict[str, str]) -> None:
    """Print the table as Markdown: how many times faster than float32, by rows."""
    names = [name for name in ("int_mm", "fbgemm") if name in figures[0]]
    print("| out x in | " + " | ".join(f"{name}, {rows} rows" for name in names for rows in ROWS)
          + " | chosen |\n|---|" + "---|" * (len(names) * len(ROWS) + 1))
    for shape, kept in chosen.items():
        own = [each for each in figures if f"{each['out']} x {each['in']}" == shape]
        cells = [f"{each['float32'] / each[name]:.2f}" for name in names for each in own]
        print(f"| {shape} | " + " | ".join(cells) + f" | {kept} |")


if __name__ == "__main__":
    main()
