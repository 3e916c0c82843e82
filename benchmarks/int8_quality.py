"""What activations of 8 and of 7 bits cost in quality: `python -m benchmarks.int8_quality --cache DIR`.

The base of a space with its body as `int8_dynamic` of either width, by integer products in all of its layers
whatever is fastest, beside its own floats: the bound on held-out text with the same noise for all, the
divergence of its beliefs from the float ones, and the share of positions at which the likeliest word is
another. `--cache` is the folder `cache` of a run of the space; what it lacks is made. `--minilm` takes the
first layers of all-MiniLM-L6-v2 instead (extra `pretrained`; texts are those of the quickstart), which have
no head for words: the error of their output alone. Needs no Ray.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import prepared
from benchmarks.common import save
from benchmarks.post_training_minilm import hidden, minilm
from search.run.validation import load_checked
from spaces import points
from spaces.config import PluginRef, QuantizationConfig
from spaces.errors import UserError
from spaces.overrides import parse
from trainable.artifacts.artifact import Loaded, load
from trainable.artifacts.packed import Packed
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.states import States
from trainable.metrics.kl_to_base import divergence, measured_states
from trainable.metrics.nll_bound import sum_parts
from trainable.models.backbone import Backbone
from trainable.models.pretrained.packages import unpack
from trainable.quantization.int8_body import products
from trainable.quantization.int8_products import BITS, FLOAT32, offered
from trainable.seeds import stream
from trainable.workers.context import WorkerContext

CPU = torch.device("cpu")
HELDOUT, TIMES, ROWS = 512, 8, 64
"""Held-out texts, draws of times for each in the bound, and texts at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="quickstart")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--minilm", type=int, metavar="LAYERS", help="of MiniLM, at most 6")
    args = parser.parse_args()
    torch.set_num_threads(1)
    name = "minilm" if args.minilm else Path(args.space).stem
    with tempfile.TemporaryDirectory() as scratch:
        try:
            base, corpus = pretrained(args, Path(scratch)) if args.minilm else trained(args)
        except UserError as error:
            raise SystemExit(f"skipped: {error}") from None
        save(f"int8_quality_{name}", {"settings": args.settings, "texts": HELDOUT, "times": TIMES,
                                      "bodies": compared(base, corpus, words=not args.minilm)})


def trained(args: argparse.Namespace) -> tuple[Loaded, TokenizedCorpus]:
    """The base of a space."""
    space = load_checked(args.space, parse(args.settings))
    shared = prepared(space.config(points.complete(space.dimensions, {})), args.cache, WorkerContext(),
                      ["base"])
    return load(shared["base"]), TokenizedCorpus.open(Path(shared["corpus"]))


def pretrained(args: argparse.Namespace, scratch: Path) -> tuple[Loaded, TokenizedCorpus]:
    """Layers of MiniLM as they come."""
    folder = str(unpack("minilm", scratch / "minilm"))
    _, corpus, base = minilm(folder, args.minilm, args.cache, args.settings)
    return base, corpus


def compared(base: Loaded, corpus: TokenizedCorpus, words: bool) -> dict[str, Any]:
    """Figures of the float body and of both widths. `words`: the model has a head for words."""
    ids = torch.from_numpy(corpus.ids("valid")[:HELDOUT].astype("int64"))
    lengths = torch.from_numpy(corpus.lengths("valid")[:HELDOUT].astype("int64")) + 1
    states = measured_states(base.model, base.process, ids, stream("int8_quality", 0))
    floats = bound(base, base.model, ids) if words else None
    found: dict[str, Any] = {} if floats is None else {
        FLOAT32: {"nll_bound": float(floats.sum() / lengths.sum())}}
    for bits in BITS:
        able = offered(CPU, bits)
        if able[0] == FLOAT32:
            continue  # a CPU that rounds no activations of this width
        model = rounded(base, PluginRef(name="int8_dynamic", product=able[0], activation_bits=bits))
        row: dict[str, Any] = {"products": products(model), **error(base.model, model, states)}
        if floats is not None:
            more = (bound(base, model, ids) - floats).double()
            mean = more.sum() / lengths.sum()
            spread = (more - mean * lengths).square().sum().sqrt() / lengths.sum()  # of a ratio of two sums
            row |= {"nll_bound_more": float(mean), "nll_bound_more_se": float(spread),
                    "kl_to_base": divergence(base.model, model, states).values()}
        found[f"{bits} bits"] = row
        print(bits, row, flush=True)
    return found


def rounded(base: Loaded, body: PluginRef) -> Backbone:
    """The model as its artifact with this body would run."""
    config = base.config.model_copy(update={"quantization": QuantizationConfig(body=body)})
    return Packed.pack(base.model, config, base.lexicon).run(CPU)


@torch.no_grad()
def bound(base: Loaded, model: Backbone, ids: torch.Tensor) -> torch.Tensor:
    """Nats of each text [N], by noise that is the same for every model."""
    noise = stream("int8_quality", 1)
    parts = sum_parts([base.process.bound(model, rows, TIMES, noise) for rows in ids.split(ROWS)])
    return torch.stack(list(parts.values())).sum(0)


@torch.no_grad()
def error(base: Backbone, model: Backbone, states: States) -> dict[str, float]:
    """Squared error of the body's last state as a share of the float one's square."""
    theirs, ours = hidden(base, states), hidden(model, states)
    return {"squared_error": float((ours - theirs).square().sum() / theirs.square().sum())}


if __name__ == "__main__":
    main()
