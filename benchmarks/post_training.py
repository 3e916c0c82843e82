"""Post-training methods by divergence from their base: `python -m benchmarks.post_training --cache DIR`.

Every method rounds the body of one trained base, calibrated as its row says, and is compared with the base
at corrupted
positions of held-out text, all in the same states. Columns are bits of weights and activations; a figure is
the KL
relative to rounding to nearest in that column, with a 95 % interval over calibration seeds (texts and their
noise).
`--cache` is the folder `cache` of an earlier run of the space, or a new one: the base is then trained first.
Needs no Ray.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.arms import interval, prepared
from benchmarks.common import save
from search.run.validation import load_checked
from spaces import points
from spaces.config import CalibrationConfig
from spaces.overrides import parse
from trainable.artifacts.artifact import load
from trainable.artifacts.packed import Packed
from trainable.corpora.tokenize import TokenizedCorpus
from trainable.metrics.base import heldout_rows
from trainable.metrics.kl_to_base import divergence, measured_states
from trainable.quantization.post_training.stored import chain_of
from trainable.seeds import stream
from trainable.stages.calibrate import calibrate, calibration_states
from trainable.workers.context import WorkerContext

COLUMNS = {"W3A16": (3, 0, 16), "W2A16 g16": (2, 16, 16), "W4A4": (4, 0, 4)}
"""Bits of weights, inputs that share a scale (0 = the row), bits of activations."""
ROWS: dict[str, dict] = {
    "rtn": {"method": "rtn"},
    "rtn + rotation": {"method": "rtn", "transforms": ["rotation"]},
    "hqq": {"method": "hqq"},
    "smoothquant, corrupted": {"method": "smoothquant"},
    "awq, clean": {"method": "awq", "source": "clean"},
    "awq, corrupted": {"method": "awq"},
    "gptq, clean": {"method": "gptq", "source": "clean"},
    "gptq, corrupted": {"method": "gptq"},
    "gptq, rollout": {"method": "gptq", "source": "rollout"},
    "gptq, rollout_quota": {"method": "gptq", "source": "rollout_quota"},
    "gptq, corrupted, cgq_survey": {"method": "gptq", "token_weight": "cgq_survey"},
    "gptq, rollout_quota, cgq_survey": {
        "method": "gptq",
        "source": "rollout_quota",
        "token_weight": "cgq_survey",
    },
    "gptq, rollout_quota, cgq_thirdparty": {
        "method": "gptq",
        "source": "rollout_quota",
        "token_weight": "cgq_thirdparty",
    },
    "gptq + rotation, corrupted": {"method": "gptq", "transforms": ["rotation"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--space", default="dllmquant")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seeds", type=int, default=3, help="of the calibration")
    parser.add_argument("--texts", type=int, default=192)
    parser.add_argument("--heldout", type=int, default=256)
    parser.add_argument("--name", default="post_training", help="of the JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_checked(args.space, parse(args.settings))
    config = space.config(points.complete(space.dimensions, {}))
    shared = prepared(config, args.cache, WorkerContext())
    base, corpus = load(shared["base"], run_codes=False), TokenizedCorpus.open(Path(shared["corpus"]))
    rows = sorted(heldout_rows(corpus, args.heldout, stream("evaluation", "kl_to_base", 0)))
    ids = torch.from_numpy(corpus.ids("valid")[rows].astype("int64"))
    states = measured_states(base.model, base.process, ids, stream("evaluation", "kl_to_base/noise", 0))
    packed, found = Packed.pack(base.model, base.config, base.lexicon), {}
    for column in COLUMNS:
        for row in ROWS:
            measured = []
            for seed in range(args.seeds):
                calibration = calibration_of(row, column, args.texts, seed)
                model, began = packed.run(torch.device("cpu")), time.process_time()
                own = config.model_copy(update={"calibration": calibration})
                calibrate(model, calibration_states(model, base.process, corpus, own), calibration)
                seconds = time.process_time() - began
                measured.append({**divergence(base.model, model, states).values(), "cpu_seconds": seconds})
                if not chain_of(calibration.method, calibration.transforms).needs:
                    break  # nothing that depends on calibration
            found[row, column] = measured
            print(f"{column:10s} {row:38s} " + " ".join(f"{one['kl']:.5f}" for one in measured), flush=True)
    figures = {
        "settings": args.settings,
        "texts": args.texts,
        "heldout": args.heldout,
        "seeds": args.seeds,
        "base": {key: base.facts[key] for key in ("steps", "train_seconds")},
        "parameters": parameters(base.model),
        "columns": {
            name: dict(zip(("weight_bits", "group", "activation_bits"), what, strict=True))
            for name, what in COLUMNS.items()
        },
        "rows": {
            row: {column: summary(found[row, column], found["rtn", column]) for column in COLUMNS}
            for row in ROWS
        },
    }
    save(args.name, figures)
    show(figures)


def calibration_of(row: str, column: str, texts: int, seed: int) -> CalibrationConfig:
    """The settings of one cell."""
    bits, group, activations = COLUMNS[column]
    settings = ROWS[row]
    return CalibrationConfig.model_validate(
        {
            **settings,
            "method": {"name": settings["method"], "bits": bits, "group": group},
            "activation_bits": activations,
            "texts": texts,
            "seed": seed,
        }
    )


def parameters(model: torch.nn.Module) -> int:
    """Of the whole base."""
    return sum(value.numel() for value in model.parameters())


def summary(measured: list[dict], plain: list[dict]) -> dict:
    """KL and flips, mean and half-width over seeds; KL relative to that of rounding to nearest."""
    reference = plain[0]["kl"]
    return {
        "kl": interval([one["kl"] for one in measured]),
        "relative": interval([one["kl"] / reference for one in measured]),
        "flips": interval([one["flips"] for one in measured]),
        "se": measured[0]["se"],
        "cpu_seconds": sum(one["cpu_seconds"] for one in measured) / len(measured),
        "runs": measured,
    }


def show(figures: dict) -> None:
    """Print the table as Markdown: KL relative to rounding to nearest; the first row in nats."""
    columns = list(figures["columns"])
    print("| method, calibrated on | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for row, cells in figures["rows"].items():
        texts = []
        for column in columns:
            mean, half = cells[column]["relative"]
            nats = f" ({cells[column]['kl'][0]:.4f} nats)" if row == "rtn" else ""
            texts.append(f"{mean:.2f}" + ("" if half != half else f" ± {half:.2f}") + nats)
        print(f"| {row} | " + " | ".join(texts) + " |")


if __name__ == "__main__":
    main()
