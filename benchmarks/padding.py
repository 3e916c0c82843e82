"""What leaving out positions behind the longest text of a batch gives and costs (`base.optim.padding`):
`python -m benchmarks.padding --space e2e --cache DIR --set trial.corpus.source.path=DIR [--seeds 3]`.

For each seed a base is trained with each padding (`full`, `batch`, `pairs`), for the same steps, one after
the other in this process, one thread. Told are the bound on held-out text, perplexity of samples under the
teacher, and how many words samples have beside real text: positions that few batches had are the last of a
text. `--pace` times steps of them instead, blocks of them in turns: a shared machine changes its speed while
a base is trained. No Ray.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import interval, prepared
from benchmarks.common import save, spread
from search.run.validation import load_checked
from spaces import points
from spaces.config import TrialConfig
from spaces.overrides import parse
from trainable.artifacts.artifact import load
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.nll_bound import sum_parts
from trainable.metrics.perplexity import pooled_perplexity
from trainable.registry import BACKBONES, PROCESSES, completed
from trainable.scoring.teacher import Teacher
from trainable.seeds import stream
from trainable.training.batches import occupied
from trainable.training.loop import TrainingRun
from trainable.workers.context import WorkerContext
from trainable.workers.jobs import JOBS

PADDINGS = ("full", "batch", "pairs")
SAMPLERS = ((20, 0.5), (50, 0.5))
HELDOUT, TIMES, ROWS = 512, 8, 64
"""Held-out texts of the bound, draws of times for each, and texts at once."""
ROUNDS, BLOCK, COUNTED = 15, 40, 400
"""Rounds and steps of `pace`, and batches whose positions are counted."""


def main() -> None:
    parser = of_bases(__doc__, samples=256)
    parser.add_argument("--pace", action="store_true", help="only time steps")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space, context = load_checked(args.space, parse(args.settings)), WorkerContext()
    config = space.config(points.complete(space.dimensions, {}))
    if args.pace:
        corpus = TokenizedCorpus.open(Path(prepared(config, args.cache, context, [])["corpus"]))
        figures = pace(config, corpus)
        print(figures)
        save(f"padding_pace_{Path(args.space).stem}", {"settings": args.settings, **figures})
        return
    shared = prepared(config, args.cache, context, ["teacher"])
    found: dict[str, list[dict[str, float]]] = {padding: [] for padding in PADDINGS}
    for seed in range(args.seeds):
        for padding in PADDINGS:
            figures = of_base(with_base(config, seed, padding), args.cache, shared, args.samples, context)
            found[padding].append(figures)
            print(seed, padding, {name: round(value, 3) for name, value in figures.items()}, flush=True)
    save(f"padding_{Path(args.space).stem}", {
        "settings": args.settings, "seeds": args.seeds, "of": found, "summary": summary(found)})


def of_bases(description: str | None, samples: int) -> argparse.ArgumentParser:
    """Arguments of a comparison of bases; `samples` by default of each."""
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="quickstart")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=samples)
    return parser


def with_base(config: TrialConfig, seed: int, padding: str) -> TrialConfig:
    """The trial over another base."""
    optim = config.base.optim.model_copy(update={"padding": padding})
    return config.model_copy(update={"base": config.base.model_copy(update={"seed": seed, "optim": optim})})


def of_base(config: TrialConfig, cache: str, shared: dict[str, str], samples: int,
            context: WorkerContext) -> dict[str, float]:
    """A base, trained where it is not there, and what it is worth."""
    payload = {"config": config.model_dump(mode="json"), "cache": cache, "corpus": shared["corpus"]}
    base = load(list(JOBS["base"](payload, context))[-1]["path"])
    corpus = TokenizedCorpus.open(Path(shared["corpus"]))
    teacher = Teacher.load(Path(shared["teacher"]), corpus, torch.device("cpu"))
    ids = torch.from_numpy(corpus.ids("valid")[:HELDOUT].astype("int64"))
    words = float((corpus.lengths("valid")[:HELDOUT].astype("int64") + 1).sum())
    noise = stream("padding", 0)
    with torch.no_grad():
        parts = sum_parts([base.process.bound(base.model, rows, TIMES, noise) for rows in ids.split(ROWS)])
    found = {"nll_bound": float(sum(part.sum() for part in parts.values())) / words}
    for steps, temperature in SAMPLERS:
        sampling = config.sampling.model_copy(update={"steps": steps, "temperature": temperature})
        texts = base.words(base.sampling(sampling).sample(samples, config.corpus.max_length,
                                                          stream("padding", 1)))
        value, _ = pooled_perplexity(*teacher.nll(texts))
        found |= {f"perplexity_{steps}": value, f"words_{steps}": sum(map(len, texts)) / len(texts)}
    found["words_real"] = float(corpus.lengths("valid").mean())
    return found


def pace(config: TrialConfig, corpus: TokenizedCorpus) -> dict[str, Any]:
    """CPU seconds of a step of each in `ROUNDS` blocks that take turns, the ratios to `full` in the same
    round, and the mean positions of a batch; of `pairs` also those of the narrower and of the wider one."""
    runs, seconds = {}, dict[str, list[float]]()
    for padding in PADDINGS:
        one = completed(with_base(config, 0, padding))
        process = PROCESSES.build(one.diffusion)
        model = BACKBONES.get(one.model.name).from_config(BACKBONES.params(one.model), process.params,
                                                          corpus.vocab, seed=0)
        runs[padding] = TrainingRun(model, process, corpus.ids("train"), one.base.optim, one.runtime, 0,
                                    torch.device("cpu"))
    for number in range(-1, ROUNDS):
        for padding in sorted(runs, reverse=number % 2 == 0):
            run, began = runs[padding], time.process_time()
            run.advance(run.step + BLOCK)
            if number >= 0:  # a first round makes the graphs of most lengths
                seconds.setdefault(padding, []).append((time.process_time() - began) / BLOCK)
    positions = {padding: [occupied(run.batches.at(step)) for step in range(COUNTED)]
                 for padding, run in runs.items()}
    positions["full"] = [corpus.ids("train").shape[1]]
    both = [sorted(pair) for pair in zip(positions["pairs"][::2], positions["pairs"][1::2], strict=True)]
    ratios = {f"{padding}_over_full": [a / b for a, b in zip(seconds[padding], seconds["full"], strict=True)]
              for padding in PADDINGS[1:]}
    return {"seconds_a_step": {padding: spread(values) for padding, values in seconds.items()},
            **{name: spread(values) for name, values in ratios.items()},
            "positions": {padding: statistics.fmean(counts) for padding, counts in positions.items()},
            "positions_of_a_pair": [statistics.fmean(side) for side in zip(*both, strict=True)]}


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Means and 95 % half-widths over seeds, and of the paired ratios to `full`."""
    names = found["full"][0]
    told = {padding: {name: interval([one[name] for one in rows]) for name in names}
            for padding, rows in found.items()}
    pairs = {padding: list(zip(found[padding], found["full"], strict=True)) for padding in PADDINGS[1:]}
    return {**told, **{f"{padding}_over_full": {
        name: interval([one[name] / other[name] for one, other in of]) for name in names}
        for padding, of in pairs.items()}}


if __name__ == "__main__":
    main()
