"""Sizes, memory, latency and training cost of quantizers:
`python -m benchmarks.quantizers sizes|artifact|training`.

`sizes`: bytes of packed embedding tables by every family's examples. `artifact`: the published E2E model (87
million parameters, random weights: bytes and time do not depend on their values) exported with each body
format, its bytes, the memory that running it takes in a process of its own, and its latency in turns with
the float32 artifact. `training`: what quantizers add to a training step of that model. Needs no Ray.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import save
from spaces.config import SITES, PluginRef, QuantizationConfig, TrialConfig
from trainable.artifacts.artifact import export, load
from trainable.benchmarking.bench import cells, surroundings, weight
from trainable.control.lexicon import Lexicon
from trainable.diffusion.gaussian.losses import training_loss
from trainable.diffusion.gaussian.schedule import Schedule
from trainable.metrics.timing import interleaved, median_interval
from trainable.models.diffusion_lm.denoiser import DiffusionLM
from trainable.quantization import sites
from trainable.registry import BACKBONES, BODIES, PROCESSES, QUANTIZERS
from trainable.training.optimizer import adamw

TABLES = {"e2e": (821, 16), "rocstories": (11043, 128)}
WORDS = ["START", "END", "UNK", "PAD", *(f"w{i}" for i in range(817))]
TRAINED = ("fixed:Q0i8f", "pow2:Q0i8f", "binary", "ternary_twn", "uniform:4",
           {"name": "uniform", "scale": "lsq"}, {"name": "uniform", "scale": "mse"}, "float:E2M1",
           {"name": "float", "bias": "search"}, "nf4", "mx", "bfp", {"name": "lut", "bits": 4},
           {"name": "vq", "entries": 64}, "pq", {"name": "simvq", "entries": 32}, "fsq", "adapt")

BODY = ("fixed:Q0i8f", "ternary_twn", "uniform:4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("sizes", "artifact", "training"))
    parser.add_argument("--bodies", default=",".join(BODIES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--body-only", action="store_false", dest="every",
                        help="of `training`: the trained body alone")
    parser.add_argument("--name", help="of the JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = {"sizes": lambda: sizes(), "artifact": lambda: artifact(args),
               "training": lambda: training(args)}[args.part]()
    save(args.name or f"quantizers_{args.part}", {**figures, "where": surroundings("cpu")})


def sizes() -> dict:
    """Bits a value and the share of float32 of every family's examples, from arrays that were packed."""
    found = {}
    for table, shape in TABLES.items():
        w = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.5
        rows = []
        for name in QUANTIZERS:
            for params in QUANTIZERS.get(name).examples():
                quantizer = QUANTIZERS.get(name)(params)
                stored = sum(value.numel() * value.element_size() for value in quantizer.encode(w).values())
                error = (quantizer.fake_quantize(w) - w).square().mean() / w.square().mean()
                rows.append({"quantizer": quantizer.label, "family": name, "bytes": stored, "bits": 8 * stored
                             / w.numel(), "smaller": 4 * w.numel() / stored, "squared_error": float(error)})
        found[table] = {"shape": shape,
                        "float32_bytes": 4 * w.numel(), "rows": sorted(rows, key=lambda row: row["bits"])}
        print(table)
        for row in found[table]["rows"]:
            print(f"{row['quantizer']:24s} {row['bits']:6.3f} bits  {row['smaller']:6.2f}x  error "
                  f"{row['squared_error']:.4f}")
    return {"tables": found}


def published() -> TrialConfig:
    """The E2E model as published: the defaults, 64 positions a sentence."""
    return TrialConfig.model_validate({"corpus": {"max_length": 64}})


def artifact(args: argparse.Namespace) -> dict:
    """Each body format of the published shape beside float32; the table is stored by `uniform:4`
    with one scale."""
    config, found = published(), {}
    with tempfile.TemporaryDirectory() as scratch:
        model = DiffusionLM(BACKBONES.params(config.model), PROCESSES.params(config.diffusion), WORDS).eval()
        lexicon = Lexicon(WORDS, 64, {}, "words")
        base = load(export(model, config, lexicon, Path(scratch) / "float32", {}))
        table = {"name": "uniform", "bits": 4, "granularity": "tensor"}
        sites.apply(model, QuantizationConfig(quantizer=table))
        reference = weight(base, "cpu", args.batch, 1)
        for body in args.bodies.split(","):
            chosen = config.model_copy(update={"quantization": QuantizationConfig(quantizer=table,
                                                                                  body=body)})
            side = load(export(model, chosen, lexicon, Path(scratch) / f"body-{body}", {}))
            memory = weight(side, "cpu", args.batch, 1)
            cell = next(cells([side, base], [args.batch], [args.steps], args.repeats, "cpu"))
            found[body] = {"memory": memory, "smaller": {key: reference[key] / memory[key] for key in memory},
                           **cell}
            print(body, {key: round(value, 2) for key, value in found[body]["smaller"].items()},
                  f"latency ratio {cell['ratio']:.3f} {cell['ratio_interval']}", flush=True)
    values = sum(value.numel() for value in base.model.parameters())
    return {"values": values, "float32": reference, "batch": args.batch, "steps": args.steps, "bodies": found}


def training(args: argparse.Namespace) -> dict:
    """Seconds of a float training step, of each quantizer's own work in it, and how often
    sampling quantizes."""
    config, schedule = published(), Schedule.make("sqrt", 2000)
    model = DiffusionLM(BACKBONES.params(config.model), PROCESSES.params(config.diffusion), WORDS).train()
    ids = torch.randint(4, 821, (args.batch, 64), generator=torch.Generator().manual_seed(0))
    optimizer = adamw(model.named_parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        training_loss(model, ids, schedule, torch.Generator().manual_seed(0))["loss"].backward()
        optimizer.step()
    weights = {site: [module.weight.detach() for _, module in sites.site_weights(model, site)]
               for site in SITES}
    layer = weights["attention"][:4] + weights["ffn"][:2]
    refs = [QuantizationConfig(quantizer=short).quantizer for short in BODY]
    # In turns with the step, since both are at the mercy of what else the machine does.
    turns = interleaved([step, *(work(ref, layer) for ref in refs)], args.repeats, "cpu").wall
    taken = turns[0]
    whole, rows, body = float(np.median(taken)), [], {}
    for ref, own in zip(refs, turns[1:], strict=True):
        shares = config.model.layers * own / taken
        body[QUANTIZERS.build(ref).label] = [float(np.median(shares)), *median_interval(shares)]
        print(f"{ref.name} body, trained: {100 * np.median(shares):.2f} %", flush=True)
    for short in TRAINED if args.every else ():
        ref = QuantizationConfig(quantizer=short).quantizer
        row = {"quantizer": QUANTIZERS.build(ref).label}
        for site in ("embedding", "projection"):
            row[site] = own_seconds(ref, weights[site]) / whole
        rows.append(row)
        print(f"{row['quantizer']:20s} " + " ".join(f"{site} {100 * row[site]:.3f} %"
                                                    for site in ("embedding", "projection")), flush=True)
    return {"step_seconds": whole, "interval": list(median_interval(taken)), "batch": args.batch,
            "body_share_of_step": body, "share_of_step": rows,
            "quantizations_while_sampling": sampled(config)}


def own_seconds(ref: PluginRef, weights: list[torch.Tensor], repeats: int = 5) -> float:
    """Median seconds of quantizing the weights once and taking the gradient back, as one
    training step does."""
    call, taken = work(ref, weights), []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken[1:]))


def work(ref: PluginRef, weights: list[torch.Tensor]) -> Callable[[], None]:
    """What a quantizer does to these weights in one training step, forward and backward."""
    quantizer = QUANTIZERS.build(ref)
    leaves = [w.clone().requires_grad_() for w in weights]
    learned = [{k: v.requires_grad_(k not in quantizer.frozen) for k, v in quantizer.fit(w).items()}
               for w in weights]
    grads = [torch.ones_like(w) for w in weights]

    def call() -> None:
        for leaf, known, grad in zip(leaves, learned, grads, strict=True):
            leaf.grad = None
            quantizer.fake_quantize(leaf, known or None).backward(grad)
    return call


def sampled(config: TrialConfig) -> dict[str, int]:
    """Calls of a quantizer while 10 denoising steps are taken: one for each quantized weight."""
    from trainable.diffusion.gaussian.sampling import GaussianSampling

    small = config.model.model_copy(update={"layers": 2, "hidden": 96, "ffn": 96})
    model = DiffusionLM(small, config.diffusion, WORDS)
    sites.apply(model, QuantizationConfig(quantizer="fixed:Q0i8f", sites=SITES))
    calls: Counter = Counter()
    quantizers = {id(q): q for q, _, _ in sites.quantized_state(model).values()}
    for quantizer in quantizers.values():
        def counted(w, *rest, quantizer=quantizer):
            calls["quantizations"] += 1
            return type(quantizer).fake_quantize(quantizer, w, *rest)
        quantizer.fake_quantize = counted
    sampling = config.sampling.model_copy(update={"steps": 10})
    GaussianSampling(model, Schedule.make("sqrt", 2000), sampling).sample(2, 16,
                                                                          torch.Generator().manual_seed(0))
    return {"denoising_steps": 10, "weights": len(sites.quantized_state(model)), **calls}


if __name__ == "__main__":
    main()
