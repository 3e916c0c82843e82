"""Post-training methods by divergence from their base: `python -m benchmarks.post_training --cache DIR`.

Every method rounds the body of one trained base, calibrated as its row says, and is compared with the base at
corrupted positions, all in the same states: held-out text under noise, and states that the base's own
generations pass through. Columns are bits of weights and activations; a figure is the KL relative to rounding
to nearest in that column, with a 95 % interval over calibration seeds (texts and their noise), and to GPTQ on
corrupted text, seed by seed. `--cache` is the folder `cache` of an earlier run, or a new one: the base is
then trained first. `--base gaussian` is that of the space. Needs no Ray.
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
from spaces.config import CalibrationConfig, TrialConfig
from spaces.overrides import parse
from trainable.artifacts.artifact import Loaded, load
from trainable.artifacts.packed import Packed
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.states import States, visited
from trainable.metrics.base import heldout_rows
from trainable.metrics.kl_to_base import divergence, measured_states
from trainable.models.backbone import Backbone
from trainable.quantization.post_training.stored import chain_of
from trainable.seeds import stream
from trainable.stages.calibrate import calibrate, calibration_states
from trainable.workers.context import WorkerContext

BASES: dict[str, dict] = {
    "gaussian": {},
    "masked": {  # the model and its training as in spaces/masked.yaml
        "trial.model": {"name": "masked_lm", "body": "bert", "hidden": 64, "layers": 2, "heads": 4,
                        "ffn": 256, "positions": 64},
        "trial.diffusion": {"name": "masked", "recipe": "uniform"},
        "trial.base.optim": {"steps": 4000, "batch_size": 64, "lr": 0.005, "ema": 0.995},
        "search.sampling.sampler": {"choice": [
            "ancestral", {"name": "quota", "order": "entropy"}, {"name": "entropy_bound", "bound": 0.5},
            {"name": "entropy_bound", "bound": 2.0}, "chain", {"name": "chain", "bound": 1.0}]},
        "search.sampling.temperature": {"choice": [0.5, 0.65, 0.8, 1.25, 1.5]}}}
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
    "gptq, corrupted, cgq_thirdparty": {"method": "gptq", "token_weight": "cgq_thirdparty"},
    "gptq, rollout_quota, cgq_survey": {"method": "gptq", "source": "rollout_quota",
                                        "token_weight": "cgq_survey"},
    "gptq, rollout_quota, cgq_thirdparty": {"method": "gptq", "source": "rollout_quota",
                                            "token_weight": "cgq_thirdparty"},
    "gptq + rotation, corrupted": {"method": "gptq", "transforms": ["rotation"]},
}
RTN, GPTQ = "rtn", "gptq, corrupted"
TEXT, ROLLOUT = "text", "rollout"
"""Where models are compared: held-out text under noise, states of the base's generations."""
TARGETS = (("awq, corrupted", "W3A16", RTN, 0.8), ("gptq, clean", "W3A16", RTN, 0.5),
           (GPTQ, "W3A16", RTN, 0.33), ("gptq + rotation, corrupted", "W4A4", GPTQ, 0.75))
"""Row, column, the row that it is a share of, the largest share that was asked for."""
TRIAL_TEXTS = 96
"""Calibration states of the trial whose CPU time is taken: what spaces/dllmquant.yaml asks for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--space", default="dllmquant")
    parser.add_argument("--base", choices=BASES, default="masked")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seeds", type=int, default=3, help="of the calibration")
    parser.add_argument("--texts", type=int, default=192)
    parser.add_argument("--heldout", type=int, default=256)
    parser.add_argument("--name", default="post_training", help="of the JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_checked(args.space, {**BASES[args.base], **parse(args.settings)})
    config = space.config(points.complete(space.dimensions, {}))
    shared = prepared(config, args.cache, WorkerContext(), ("base",))
    base, corpus = load(shared["base"], run_codes=False), TokenizedCorpus.open(Path(shared["corpus"]))
    states = compared_states(base, corpus, config, args.heldout)
    packed, found = Packed.pack(base.model, base.config, base.lexicon), {}
    figures: dict = {
        "settings": args.settings, "texts": args.texts, "heldout": args.heldout, "seeds": args.seeds,
        "base": {"process": args.base, **{key: base.facts[key] for key in ("steps", "train_seconds")},
                 "nll_bound": bound(base, corpus, config, args.heldout)},
        "parameters": sum(value.numel() for value in base.model.parameters()),
        "trial": {method: trial_seconds(packed, base, corpus, states[TEXT], config, method)
                  for method in ("rtn", "awq", "gptq")},
        "columns": {}, "rows": {row: {} for row in ROWS}, "targets": []}
    for column in COLUMNS:
        for row in ROWS:
            calibration = calibration_of(row, column, args.texts)
            needed = bool(chain_of(calibration.method, calibration.transforms).needs)
            found[row, column] = [
                measured(packed, base, corpus, states, config, calibration.model_copy(update={"seed": seed}))
                for seed in range(args.seeds if needed else 1)]
            texts = [f"{one[TEXT]['kl']:.5f}" for one in found[row, column]]
            print(f"{column:10s} {row:38s}", *texts, flush=True)
        figures["columns"][column] = dict(zip(("weight_bits", "group", "activation_bits"), COLUMNS[column],
                                              strict=True))
        for row, cells in figures["rows"].items():
            cells[column] = summary(found[row, column], found[RTN, column], found[GPTQ, column])
        figures["targets"] += [target(found, *each) for each in TARGETS if each[1] == column]
        save(args.name, figures)  # a column that is there is kept, should the next not be
    show(figures)


def compared_states(base: Loaded, corpus: TokenizedCorpus, config: TrialConfig,
                    count: int) -> dict[str, States]:
    """`count` states of either kind, by noise that no calibration uses."""
    rows = sorted(heldout_rows(corpus, count, stream("evaluation", "kl_to_base", 0)))
    ids = torch.from_numpy(corpus.ids("valid")[rows].astype("int64"))
    noise = stream("evaluation", "rollout", 0)
    seen = visited(base.model, base.process, base.process.sampling(base.model, config.sampling), count,
                   config.corpus.max_length, noise)
    some = torch.randperm(len(seen.t), generator=noise)[:count]
    return {TEXT: measured_states(base.model, base.process, ids, stream("evaluation", "kl_to_base/noise", 0)),
            ROLLOUT: seen.rows(some)}


def calibration_of(row: str, column: str, texts: int) -> CalibrationConfig:
    """The settings of one cell."""
    bits, group, activations = COLUMNS[column]
    settings = ROWS[row]
    return CalibrationConfig.model_validate({
        **settings, "method": {"name": settings["method"], "bits": bits, "group": group},
        "activation_bits": activations, "texts": texts})


def measured(packed: Packed, base: Loaded, corpus: TokenizedCorpus, states: dict[str, States],
             config: TrialConfig, calibration: CalibrationConfig) -> dict:
    """One cell at one seed."""
    model, began = packed.run(torch.device("cpu")), time.process_time()
    rounded(model, base, corpus, config, calibration)
    seconds = time.process_time() - began
    return {**{name: divergence(base.model, model, each).values() for name, each in states.items()},
            "cpu_seconds": seconds}


def rounded(model: Backbone, base: Loaded, corpus: TokenizedCorpus, config: TrialConfig,
            calibration: CalibrationConfig) -> None:
    """Calibrate in place."""
    own = config.model_copy(update={"calibration": calibration})
    calibrate(model, calibration_states(model, base.process, corpus, own), calibration)


def trial_seconds(packed: Packed, base: Loaded, corpus: TokenizedCorpus, states: States, config: TrialConfig,
                  method: str) -> dict[str, float]:
    """CPU seconds of a W4A16 trial that measures its KL, from the packed base to the figure; of three."""
    calibration = CalibrationConfig.model_validate({"method": {"name": method, "bits": 4},
                                                    "texts": TRIAL_TEXTS})
    taken = []
    for _ in range(3):
        began = time.process_time()
        model = packed.run(torch.device("cpu"))
        rounded(model, base, corpus, config, calibration)
        divergence(base.model, model, states)
        taken.append(time.process_time() - began)
    return {"cpu_seconds": sorted(taken)[1], "most": max(taken)}


def bound(base: Loaded, corpus: TokenizedCorpus, config: TrialConfig, count: int) -> float:
    """The base's bound on held-out text, nats a word: how well it is trained decides what rounding costs."""
    rows = sorted(heldout_rows(corpus, count, stream("evaluation", "kl_to_base", 0)))
    ids = torch.from_numpy(corpus.ids("valid")[rows].astype("int64"))
    words = int(corpus.lengths("valid")[rows].sum()) + len(rows)
    with torch.no_grad():
        parts = base.process.bound(base.model, ids, config.evaluation.times, stream("evaluation", "bound", 0))
    return float(sum(part.sum() for part in parts.values())) / words


def shares(measured: list[dict], others: list[dict], where: str = TEXT) -> list[float]:
    """KL as a share of another row's, seed by seed; a row that calibration does not change has one seed."""
    return [one[where]["kl"] / others[min(seed, len(others) - 1)][where]["kl"]
            for seed, one in enumerate(measured)]


def summary(measured: list[dict], plain: list[dict], gptq: list[dict]) -> dict:
    """KL and flips, mean and half-width over seeds; KL relative to rounding to nearest, and to GPTQ."""
    return {
        **{where: {"kl": interval([one[where]["kl"] for one in measured]),
                   "relative": interval(shares(measured, plain, where)),
                   "against_gptq": interval(shares(measured, gptq, where)),
                   "flips": interval([one[where]["flips"] for one in measured]),
                   "se": measured[0][where]["se"]} for where in (TEXT, ROLLOUT)},
        "cpu_seconds": sum(one["cpu_seconds"] for one in measured) / len(measured), "runs": measured}


def target(found: dict, row: str, column: str, other: str, most: float) -> dict:
    """What was asked for, and what it is on held-out text."""
    mean, half = interval(shares(found[row, column], found[other, column]))
    return {"row": row, "column": column, "relative_to": other, "at_most": most, "mean": mean, "half": half,
            "holds": mean <= most}


def show(figures: dict) -> None:
    """Print the tables as Markdown: KL relative to rounding to nearest; the first row in nats."""
    columns = list(figures["columns"])
    for where in (TEXT, ROLLOUT):
        print(f"\n| method, calibrated on ({where}) | " + " | ".join(columns) + " |\n|---|"
              + "---|" * len(columns))
        for row, cells in figures["rows"].items():
            texts = []
            for column in columns:
                mean, half = cells[column][where]["relative"]
                nats = f" ({cells[column][where]['kl'][0]:.4f} nats)" if row == RTN else ""
                texts.append(f"{mean:.2f}" + ("" if half != half else f" ± {half:.2f}") + nats)
            print(f"| {row} | " + " | ".join(texts) + " |")
    for each in figures["targets"]:
        says = "holds" if each["holds"] else "does not hold"
        print(f"{each['row']} / {each['relative_to']} at {each['column']}: {each['mean']:.2f} ± "
              f"{each['half']:.2f}, at most {each['at_most']}: {says}")
    print({method: round(each["cpu_seconds"], 2) for method, each in figures["trial"].items()},
          "CPU seconds a trial,", figures["parameters"], "parameters")


if __name__ == "__main__":
    main()
