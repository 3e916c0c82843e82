"""Post-training methods on pretrained layers: `python -m benchmarks.post_training_minilm --cache DIR`.

The first layers of all-MiniLM-L6-v2 (22 million parameters; extra `pretrained`), W4A4 with a scale per token.
The model has no head for words, so that what is compared is the last of these layers' output: squared error
relative to the full-precision layers, at masked and at seen positions of held-out text, over calibration
seeds. Texts are those of the space, in the model's own tokens. Needs no Ray.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.arms import interval, prepared
from benchmarks.common import save
from benchmarks.post_training import BASES, rounded, shares
from search.run.validation import load_checked
from spaces import points
from spaces.config import CalibrationConfig, TrialConfig
from spaces.errors import UserError
from spaces.overrides import parse
from trainable.artifacts.artifact import Loaded
from trainable.artifacts.packed import Packed
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.diffusion.states import States
from trainable.metrics.base import heldout_rows
from trainable.metrics.kl_to_base import measured_states
from trainable.models.backbone import Backbone
from trainable.models.pretrained.packages import unpack
from trainable.quantization.post_training.stored import chain_of
from trainable.registry import BACKBONES, PROCESSES, completed
from trainable.seeds import stream
from trainable.stages.prepare import lexicon_of
from trainable.training.transfer import begin_from
from trainable.workers.context import WorkerContext

RTN, CLEAN, MASKED = "rtn", "gptq, clean", "gptq, corrupted"
ROWS: dict[str, dict] = {
    RTN: {"method": "rtn"},
    "rtn + rotation": {"method": "rtn", "transforms": ["rotation"]},
    CLEAN: {"method": "gptq", "source": "clean"},
    MASKED: {"method": "gptq"},
    "gptq + rotation, corrupted": {"method": "gptq", "transforms": ["rotation"]},
    "gptq, corrupted, cgq_thirdparty": {"method": "gptq", "token_weight": "cgq_thirdparty"},
}
BITS = 4
TARGETS = ((MASKED, RTN, "at most", 0.9), (CLEAN, RTN, "above", 1.0), ("best", MASKED, "at most", 0.8))
PLACES = ("masked", "seen")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--model", help="an unpacked folder of the model; default: the installed package's")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3, help="of the calibration")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--heldout", type=int, default=64)
    parser.add_argument("--name", default="post_training_minilm", help="of the JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = args.model or str(unpack("minilm", Path(scratch) / "minilm"))
        except UserError as error:
            raise SystemExit(f"skipped: {error}") from None
        figures = compared(args, folder)
    save(args.name, figures)
    show(figures)


def minilm(folder: str, layers: int, cache: str,
           settings: Sequence[str]) -> tuple[TrialConfig, TokenizedCorpus, Loaded]:
    """The first layers of the checkpoint in `folder` as they come, over the quickstart's texts."""
    changes = {"trial.model": {"name": "masked_lm", "body": "bert", "hidden": 384, "layers": layers,
                               "heads": 12, "ffn": 1536, "positions": 512, "norm_eps": 1e-12},
               "trial.diffusion": {"name": "masked", "recipe": "uniform"},
               "trial.corpus": {"source": {"name": "restaurant", "sentences": 20000, "max_words": 16},
                                "tokenizer": folder, "tokens": "seen", "max_length": 32},
               "trial.base.start": folder,
               "search.sampling.sampler": BASES["masked"]["search.sampling.sampler"]}
    space = load_checked("dllmquant", {**changes, **parse(settings)})
    config = completed(space.config(points.complete(space.dimensions, {})))
    place = Path(prepared(config, cache, WorkerContext(), ())["corpus"])
    corpus = TokenizedCorpus.open(place)
    return config, corpus, begun(config, corpus, place)


def compared(args: argparse.Namespace, folder: str) -> dict:
    """Every row on the layers in `folder`."""
    config, corpus, base = minilm(folder, args.layers, args.cache, args.settings)
    ids = torch.from_numpy(corpus.ids("valid")[sorted(
        heldout_rows(corpus, args.heldout, stream("evaluation", "kl_to_base", 0)))].astype("int64"))
    states = measured_states(base.model, base.process, ids, stream("evaluation", "kl_to_base/noise", 0))
    packed, found = Packed.pack(base.model, config, base.lexicon), {}
    for row, settings in ROWS.items():
        calibration = CalibrationConfig.model_validate({
            **settings, "method": {"name": settings["method"], "bits": BITS}, "activation_bits": BITS,
            "texts": args.texts})
        needed = bool(chain_of(calibration.method, calibration.transforms).needs)
        found[row] = [measured(packed, base, corpus, states, config,
                               calibration.model_copy(update={"seed": seed}))
                      for seed in range(args.seeds if needed else 1)]
        print(f"{row:42s}", *(f"{one['masked']['kl']:.4f}" for one in found[row]), flush=True)
    body = sum(value.numel() for value in base.model.body.parameters())
    best = min(ROWS, key=lambda row: interval([one["masked"]["kl"] for one in found[row]])[0])
    return {"settings": args.settings, "layers": args.layers, "texts": args.texts, "heldout": args.heldout,
            "seeds": args.seeds, "body_parameters": body,
            "rows": {row: summary(found[row], found[RTN]) for row in ROWS}, "best": best,
            "targets": [target(found, best, *each) for each in TARGETS]}


def begun(config: TrialConfig, corpus: TokenizedCorpus, place: Path) -> Loaded:
    """The first layers of the checkpoint, untrained further."""
    process = PROCESSES.build(config.diffusion)
    model = BACKBONES.get(config.model.name).from_config(BACKBONES.params(config.model), process.params,
                                                         corpus.vocab)
    begin_from(model, config, corpus)
    return Loaded(place, config, lexicon_of(place), model.eval(), process, {})


@torch.no_grad()
def measured(packed: Packed, base: Loaded, corpus: TokenizedCorpus, states: States, config: TrialConfig,
             calibration: CalibrationConfig) -> dict:
    """Relative squared errors of one row at one seed; under the name that `shares` reads."""
    model, began = packed.run(torch.device("cpu")), time.process_time()
    rounded(model, base, corpus, config, calibration)
    seconds = time.process_time() - began
    theirs, ours = hidden(base.model, states), hidden(model, states)
    where = {"masked": states.corrupted, "seen": ~states.corrupted}
    return {**{name: {"kl": float((ours[at] - theirs[at]).square().sum() / theirs[at].square().sum())}
               for name, at in where.items()}, "cpu_seconds": seconds}


def hidden(model: Backbone, states: States) -> torch.Tensor:
    """The body's last state, float64 [N, L, H]."""
    found = model.predict(states.state, states.t, states.previous).hidden
    assert found is not None
    return found.double()


def summary(measured: list[dict], plain: list[dict]) -> dict:
    """Relative squared error over seeds, and as a share of rounding to nearest."""
    return {**{place: {"error": interval([one[place]["kl"] for one in measured]),
                       "relative": interval(shares(measured, plain, place))} for place in PLACES},
            "cpu_seconds": sum(one["cpu_seconds"] for one in measured) / len(measured)}


def target(found: dict, best: str, row: str, other: str, word: str, limit: float) -> dict:
    """What was asked for at masked positions, and what it is."""
    row = best if row == "best" else row
    mean, half = interval(shares(found[row], found[other], "masked"))
    return {"row": row, "relative_to": other, word: limit, "mean": mean, "half": half,
            "holds": mean > limit if word == "above" else mean <= limit}


def show(figures: dict) -> None:
    """Print the table as Markdown."""
    print("| W4A4, method, calibrated on | masked positions | seen positions |\n|---|---|---|")
    for row, cells in figures["rows"].items():
        texts = []
        for place in PLACES:
            mean, half = cells[place]["relative"]
            error = f" (error {cells[place]['error'][0]:.3f})" if row == RTN else ""
            texts.append(f"{mean:.2f}" + ("" if half != half else f" ± {half:.2f}") + error)
        print(f"| {row} | " + " | ".join(texts) + " |")
    for each in figures["targets"]:
        print({**each, "mean": round(each["mean"], 3), "half": round(each["half"], 3)})


if __name__ == "__main__":
    main()
