"""What a base's training recipe gives:
`python -m benchmarks.recipe --cache DIR --set trial.diffusion.mixed_times=0 ...`.

Trains the base of spaces/quickstart.yaml, as changed by --set, and prints the teacher's perplexity of
its samples at several temperatures and step counts beside that of real text. Needs no Ray. This is how
docs/log.md's table was explored.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.arms import prepared
from benchmarks.common import save
from search.run.validation import load_checked
from spaces import points
from spaces.overrides import parse
from trainable.artifacts.artifact import load
from trainable.corpora.tokenized import TokenizedCorpus
from trainable.metrics.perplexity import pooled_perplexity
from trainable.scoring.teacher import Teacher
from trainable.seeds import stream
from trainable.workers.context import WorkerContext

SAMPLERS = ((20, 0.5), (50, 0.7), (50, 0.5), (50, 0.3), (100, 0.4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="quickstart")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", help="write benchmarks/results/recipe_NAME.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    space = load_checked(args.space, parse(args.settings))
    config = space.config(points.complete(space.dimensions, {}))
    began = time.process_time()
    shared = prepared(config, args.cache, WorkerContext())
    corpus = TokenizedCorpus.open(Path(shared["corpus"]))
    teacher, base = Teacher.load(shared["teacher"], corpus, torch.device("cpu")), load(shared["base"])
    figures = {"settings": args.settings, "cpu_seconds_to_prepare": time.process_time() - began,
               "base": base.facts, "real_text": teacher.facts["heldout_perplexity"], "perplexity": {}}
    for steps, temperature in SAMPLERS:
        sampling = config.sampling.model_copy(update={"steps": steps, "temperature": temperature})
        ids = base.sampling(sampling).sample(args.samples, config.corpus.max_length, stream("recipe", 0))
        words = base.words(ids)
        value, error = pooled_perplexity(*teacher.nll(words))
        figures["perplexity"][f"{steps} steps, temperature {temperature}"] = [value, error]
        print(f"{steps:4d} steps, temperature {temperature}: {value:8.2f} ± {1.96 * error:.2f}   "
              f"{' '.join(words[0])}")
    print(f"real text {figures['real_text']:.2f}; base trained in {base.facts['train_seconds']:.0f} s")
    if args.name:
        save(f"recipe_{args.name}", figures)


if __name__ == "__main__":
    main()
