"""Where codes are faster than floats and where not: `python -m benchmarks.quantizers_latency [--threads 1]`.

Each operation in turns with its float32 form: a Linear of the published body in every body format;
looking rows of an embedding table up in packed form; the rounding head (a row's logits over the vocabulary)
on int8 codes; and head and lookup of a model that keeps its table packed. Sizes from the E2E table, which
fits the first cache, to that of WikiText-103. Ratios below 1 are faster than float32.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.common import save
from spaces.config import PluginRef
from trainable.benchmarking.bench import surroundings
from trainable.metrics.timing import interleaved, median_interval
from trainable.models.diffusion_lm.packed_embedding import PackedTable
from trainable.quantizers.lookup import look_up
from trainable.registry import BODIES, QUANTIZERS

CPU = torch.device("cpu")
LAYERS = {"attention": (768, 768), "ffn_in": (3072, 768), "ffn_out": (768, 3072)}
TABLES = {"e2e": (821, 16), "rocstories": (11043, 128),
          "rocstories_wide": (11043, 512), "wikitext103": (43761, 1024)}
TOKENS = (64, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=11)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = {"linear": [], "lookup": [], "rounding_head": [], "packed_table": []}
    for name, shape in LAYERS.items():
        for tokens in TOKENS:
            figures["linear"] += products(name, shape, tokens, [body for body in BODIES if body != "float32"],
                                          args.repeats)
    for name, shape in TABLES.items():
        figures["lookup"] += lookups(name, shape, args.repeats)
        figures["rounding_head"] += products(name, shape, 512, ["bfloat16", "int8_dynamic"], args.repeats)
        figures["packed_table"] += packed(name, shape, args.repeats)
    save("quantizers_latency", {"where": surroundings("cpu"), "repeats": args.repeats, **figures})


def compared(what: dict, coded, plain, repeats: int) -> dict:
    """One line: milliseconds of both, and the ratio of codes over floats."""
    own, base = interleaved([coded, plain], repeats, "cpu").wall * 1000
    row = {**what, "ms": float(np.median(own)), "float32_ms": float(np.median(base)),
           "ratio": float(np.median(own / base)), "ratio_interval": list(median_interval(own / base))}
    print(f"{' '.join(str(value) for value in what.values()):60s} "
          f"{row['ms']:8.3f} ms  float32 {row['float32_ms']:8.3f} ms  "
          f"ratio {row['ratio']:.2f} ({row['ratio_interval'][0]:.2f}-{row['ratio_interval'][1]:.2f})",
          flush=True)
    return row


def products(name: str, shape: tuple[int, int], tokens: int, bodies: list[str], repeats: int) -> list[dict]:
    """`x @ w.T` with codes of `w` in each format."""
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(shape, generator=generator) * 0.05, torch.randn(tokens, shape[1], generator=generator)
    bias, rows = torch.zeros(shape[0]), []
    for body in bodies:
        form = BODIES.build_default(body)
        parts = form.encode(w)
        layer = form.linear(parts, shape, bias)
        stored = sum(value.numel() * value.element_size() for value in parts.values())
        rows.append(compared(
            {"weight": name, "shape": shape, "tokens": tokens, "format": body, "bytes": stored},
            lambda layer=layer: layer(x), lambda: torch.nn.functional.linear(x, w, bias), repeats))
    return rows


def lookups(name: str, shape: tuple[int, int], repeats: int) -> list[dict]:
    """4,096 rows (64 sentences of 64 words) of a packed table."""
    generator = torch.Generator().manual_seed(0)
    w, ids = (torch.randn(shape, generator=generator) * 0.5,
              torch.randint(shape[0], (4096,), generator=generator))
    rows = []
    for ref in (PluginRef(name="uniform", bits=8), PluginRef(name="uniform", bits=4),
                PluginRef(name="nf4", granularity="row")):
        quantizer = QUANTIZERS.build(ref)
        packed = quantizer.encode(w)
        stored = sum(value.numel() * value.element_size() for value in packed.values())
        rows.append(compared({"table": name, "shape": shape, "format": quantizer.label, "bytes": stored},
                             lambda quantizer=quantizer, packed=packed: look_up(quantizer, packed, shape,
                                                                                ids),
                             lambda: torch.nn.functional.embedding(ids, w), repeats))
    return rows


def packed(name: str, shape: tuple[int, int], repeats: int) -> list[dict]:
    """What a model with `table: packed` does: logits of 512 latents, 4,096 rows, and how far
    the logits are off."""
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(shape, generator=generator) * 0.5, torch.randn(512, shape[1], generator=generator)
    ids, factor = torch.randint(shape[0], (4096,), generator=generator), torch.ones(shape[0])
    quantizer = QUANTIZERS.build(PluginRef(name="uniform", bits=4))
    parts = quantizer.encode(w)
    table, decoded = PackedTable("", *quantizer.integer_rows(parts, shape)), quantizer.decode(parts, shape)
    logits, exact = table.dot(x, factor), torch.nn.functional.linear(x, decoded)
    what = {"table": name, "shape": shape, "bytes": table.levels.numel() + 4 * shape[0],
            "largest_error": float((logits - exact).abs().max()), "largest_logit": float(exact.abs().max()),
            "words_changed": float((logits.argmax(1) != exact.argmax(1)).float().mean())}
    return [compared({**what, "operation": "head"}, lambda: table.dot(x, factor),
                     lambda: torch.nn.functional.linear(x, decoded), repeats),
            compared({**what, "operation": "lookup"}, lambda: table.rows(ids),
                     lambda: torch.nn.functional.embedding(ids, decoded), repeats)]


if __name__ == "__main__":
    with torch.inference_mode():
        main()
